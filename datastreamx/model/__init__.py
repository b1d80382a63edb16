"""The nouns of the domain, as frozen structs without behaviour that touches the outside world."""
