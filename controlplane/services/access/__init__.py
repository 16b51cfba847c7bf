"""Who may do what, and who is who: rights, credentials, bans, enrolment."""
