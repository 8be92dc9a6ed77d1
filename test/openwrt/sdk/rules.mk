# A stand-in for OpenWrt's SDK, as far as openwrt/Makefile needs it: the compiler is this machine's.
DL_DIR := $(TOPDIR)/dl
INCLUDE_DIR := $(TOPDIR)/include
PKG_BUILD_DIR = $(TOPDIR)/build_dir/$(PKG_NAME)-$(PKG_VERSION)
TARGET_CC := cc
TARGET_CFLAGS := -Os -pipe -ffunction-sections
TARGET_CPPFLAGS :=
TARGET_LDFLAGS := -Wl,--gc-sections -s
HOSTCC := cc
CP := cp -fpR
INSTALL_DIR := install -d -m0755
INSTALL_BIN := install -m0755
INSTALL_DATA := install -m0644
PKG_JOBS := -j2
.DEFAULT_GOAL := package
