# DEMO is the command of `make demo`; with `make demo SHELL=1` it leaves the hosts up for a shell.
#
# SHELL is also make's own variable: given on the command line it would be the program that runs every recipe and every
# $(shell ...), here and in every make below. So the word is taken over at once, before anything else is included, and
# neither recipes nor sub-makes see it.

demo_shell :=
ifeq ($(origin SHELL),command line)
demo_shell := $(filter-out 0 no,$(SHELL))
override SHELL := /bin/sh
MAKEOVERRIDES := $(filter-out SHELL=%,$(MAKEOVERRIDES))
endif

DEMO = /usr/bin/python3 test/demo/demo.py $(if $(demo_shell),--shell)$(if $(DRIVER), $(DRIVER))
