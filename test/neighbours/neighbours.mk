# Beside what owners have on their routers besides: test/neighbours.

.PHONY: neighbours
neighbours: build ## the table of neighbours (VPNs, containers, firewall4's redirects, ...) with masqd off beside it (ONLY="row...")
	@/usr/bin/python3 test/neighbours/run.py $(ONLY)
