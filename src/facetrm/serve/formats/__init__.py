"""The formats of other servers, so that their clients work unchanged: one small file each."""
