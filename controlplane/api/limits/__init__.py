"""How much callers may ask: budgets of calls, streams, beats; and what overload refuses."""
