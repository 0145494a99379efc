"""The ground floor: small things that know nothing of models."""
