"""One flat request by GET or POST, one flat JSON answer."""
