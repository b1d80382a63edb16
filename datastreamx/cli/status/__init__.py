"""`datastreamx status`: is the service keeping up?"""
