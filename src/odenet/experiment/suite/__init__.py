"""The stability suite: several nets, several seeds, every measure with its interval, and one page that shows it."""
