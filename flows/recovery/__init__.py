"""The recovery store of a flow: made, read, checked before every start, and set aside when it is damaged."""
