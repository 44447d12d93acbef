"""HTTP requests to servers: the client used for labelling and by the doctor, server addresses and API keys."""
