# ONLY=U-1b,T-5  DRIVER=packet|tun|kernel  OFFLOAD=on|off  BASELINE=1 (also the kernel's masquerade)  JOBS=beds at one time  VERBOSE=1
.PHONY: conformance
conformance: build ## the RFCs, row by row (ONLY=, DRIVER=, OFFLOAD=, BASELINE=1)
	@/usr/bin/python3 test/conformance/run.py $(if $(ONLY),--only "$(ONLY)") $(if $(DRIVER),--driver $(DRIVER)) $(if $(OFFLOAD),--offload $(OFFLOAD)) \
		$(if $(filter-out 0,$(BASELINE)),--baseline) $(if $(JOBS),--jobs $(JOBS)) $(if $(VERBOSE),--verbose)
