"""The rounds of a federation: who is asked, what is sent, how answers are summed, what the server does next."""
