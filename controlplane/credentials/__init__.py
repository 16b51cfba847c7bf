"""Adapters of what proves who somebody is: certificates, authorities, OIDC tokens."""
