"""Who may do what: permissions, roles, bindings, credentials. Values and pure rules."""
