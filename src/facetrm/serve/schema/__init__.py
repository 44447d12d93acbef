"""The bodies of requests and responses; the OpenAPI document is made from them."""
