"""Read names from the first bytes of traffic: DNS, TLS, HTTP and QUIC. No I/O; any bytes are taken, in bounded work."""
