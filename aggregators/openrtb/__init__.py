"""OpenRTB 2.6 over HTTP POST, for a linear set-top box."""
