/*
 * Features of network devices, by ethtool's ioctl.
 */
#include "shim.h"

#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define FEATURES_MAX 1024

/**
 * struct device - a device whose features are asked for
 * @fd: any socket, for the ioctl
 * @request: holds its name
 * @name: name as given, for messages
 */
struct device {
	int fd;
	struct ifreq request;
	const char *name;
};

static int ethtool(struct device *device, void *command)
{
	device->request.ifr_data = command;
	return ioctl(device->fd, SIOCETHTOOL, &device->request);
}

/**
 * device_open() - get ready to ask about a device
 *
 * Return: 0, or -1 with an exception pending.
 */
static int device_open(JSContext *ctx, JSValueConst value, struct device *device)
{
	memset(device, 0, sizeof *device);
	device->fd = -1;
	device->name = argument_string(ctx, value, "device");
	if (!device->name)
		return -1;
	if (!*device->name || strlen(device->name) >= sizeof device->request.ifr_name) {
		JS_ThrowRangeError(ctx, "device: not 1 to %d bytes", (int)sizeof device->request.ifr_name - 1);
	} else {
		memcpy(device->request.ifr_name, device->name, strlen(device->name));
		device->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (device->fd >= 0)
			return 0;
		throw_errno(ctx, errno, "socket", "AF_INET");
	}
	JS_FreeCString(ctx, device->name);
	return -1;
}

static void device_close(JSContext *ctx, struct device *device)
{
	close(device->fd);
	JS_FreeCString(ctx, device->name);
}

/**
 * feature_index() - which bit a feature is
 * @count: number of features that the kernel knows
 *
 * Return: the bit; -1 if there is no such feature, -2 with an exception pending.
 */
static int feature_index(JSContext *ctx, struct device *device, const char *feature, uint32_t *count)
{
	struct {
		struct ethtool_sset_info info;
		uint32_t length;
	} set = { .info = { .cmd = ETHTOOL_GSSET_INFO, .sset_mask = 1ULL << ETH_SS_FEATURES } };
	struct ethtool_gstrings *strings;
	int index = -1;

	if (ethtool(device, &set) < 0) {
		if (errno == EOPNOTSUPP)
			return -1;
		throw_errno(ctx, errno, "ioctl ETHTOOL_GSSET_INFO", "%s", device->name);
		return -2;
	}
	memcpy(count, (uint8_t *)&set + offsetof(struct ethtool_sset_info, data), sizeof *count);
	if (!set.info.sset_mask || *count > FEATURES_MAX)
		return -1;
	strings = js_mallocz(ctx, sizeof *strings + (size_t)*count * ETH_GSTRING_LEN);
	if (!strings)
		return -2;
	strings->cmd = ETHTOOL_GSTRINGS;
	strings->string_set = ETH_SS_FEATURES;
	strings->len = *count;
	if (ethtool(device, strings) < 0) {
		throw_errno(ctx, errno, "ioctl ETHTOOL_GSTRINGS", "%s", device->name);
		index = -2;
	} else {
		for (uint32_t i = 0; i < *count && index < 0; i++)
			if (!strncmp((char *)strings->data + (size_t)i * ETH_GSTRING_LEN, feature, ETH_GSTRING_LEN))
				index = (int)i;
	}
	js_free(ctx, strings);
	return index;
}

/**
 * feature_active() - state of a feature
 * @index: its bit
 * @count: number of features that the kernel knows
 *
 * Return: 1 or 0, or -1 with an exception pending.
 */
static int feature_active(JSContext *ctx, struct device *device, int index, uint32_t count)
{
	uint32_t blocks = (count + 31) / 32;
	struct ethtool_gfeatures *features = js_mallocz(ctx, sizeof *features + blocks * sizeof *features->features);
	int active = -1;

	if (!features)
		return -1;
	features->cmd = ETHTOOL_GFEATURES;
	features->size = blocks;
	if (ethtool(device, features) < 0)
		throw_errno(ctx, errno, "ioctl ETHTOOL_GFEATURES", "%s", device->name);
	else
		active = features->features[index / 32].active >> index % 32 & 1;
	js_free(ctx, features);
	return active;
}

/**
 * feature_request() - ask for a feature to be on or off
 * @index: its bit
 * @count: number of features that the kernel knows
 *
 * Return: 0, or -1 with an exception pending. 0 does not say that the device has followed.
 */
static int feature_request(JSContext *ctx, struct device *device, int index, uint32_t count, bool on)
{
	uint32_t blocks = (count + 31) / 32, bit = 1U << index % 32;
	struct ethtool_sfeatures *features = js_mallocz(ctx, sizeof *features + blocks * sizeof *features->features);
	int result = 0;

	if (!features)
		return -1;
	features->cmd = ETHTOOL_SFEATURES;
	features->size = blocks;
	features->features[index / 32].valid = bit;
	features->features[index / 32].requested = on ? bit : 0;
	if (ethtool(device, features) < 0) {
		throw_errno(ctx, errno, "ioctl ETHTOOL_SFEATURES", "%s", device->name);
		result = -1;
	}
	js_free(ctx, features);
	return result;
}

/**
 * native_get_feature() - state of a feature, undefined if there is none of this name
 */
NATIVE(native_get_feature)
{
	const char *feature = argument_string(ctx, argv[1], "feature");
	JSValue result = JS_EXCEPTION;
	struct device device;
	uint32_t count = 0;
	int index, active;

	if (feature && device_open(ctx, argv[0], &device) == 0) {
		index = feature_index(ctx, &device, feature, &count);
		if (index == -1) {
			result = JS_UNDEFINED;
		} else if (index >= 0) {
			active = feature_active(ctx, &device, index, count);
			if (active >= 0)
				result = JS_NewBool(ctx, active);
		}
		device_close(ctx, &device);
	}
	JS_FreeCString(ctx, feature);
	return result;
}

/**
 * native_set_feature() - switch a feature; a device that does not follow has not got it
 */
NATIVE(native_set_feature)
{
	const char *feature = argument_string(ctx, argv[1], "feature");
	JSValue result = JS_EXCEPTION;
	bool on = JS_ToBool(ctx, argv[2]);
	struct device device;
	uint32_t count = 0;
	int index, active = 0;

	if (feature && device_open(ctx, argv[0], &device) == 0) {
		index = feature_index(ctx, &device, feature, &count);
		if (index >= 0 && feature_request(ctx, &device, index, count, on) == 0)
			active = feature_active(ctx, &device, index, count);
		else if (index >= 0)
			index = -2;
		if (index == -1 || (index >= 0 && active >= 0 && active != on))
			throw_errno(ctx, EOPNOTSUPP, "ioctl ETHTOOL_SFEATURES", "%s, %s", device.name, feature);
		else if (index >= 0 && active >= 0)
			result = JS_UNDEFINED;
		device_close(ctx, &device);
	}
	JS_FreeCString(ctx, feature);
	return result;
}
