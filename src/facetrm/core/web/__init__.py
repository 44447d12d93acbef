"""Asking servers: one HTTP client for labelling and for the doctor, with the addresses and keys that it takes."""
