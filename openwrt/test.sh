#!/bin/sh
# shellcheck shell=dash
#
# What OpenWrt's package tests run after installing the package: $1 is its name, $2 its version.

case "$1" in
masqd)
	masqd --version | grep -F "${2%-r*}" || exit 1
	masqd help > /dev/null || exit 1
	# The configuration as installed is valid, and switched off.
	masqd check | grep -E '^enabled: +no' || exit 1
	;;
esac
