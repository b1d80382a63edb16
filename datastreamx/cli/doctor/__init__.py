"""`datastreamx doctor`: what would keep the service from running here?"""
