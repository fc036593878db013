/*
 * vfio_probe BDF... [--hold]: open each PCI device by its IOMMU group, as a DPDK program does.
 *
 * A line of JSON on stdout for each; with --hold they stay open until SIGTERM or SIGINT. Exit status 1 and the
 * failed step with its errno on stderr where the pod may not use a device, 2 for wrong usage.
 * Order and meaning of the calls: Documentation/driver-api/vfio.rst of the kernel.
 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/vfio.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static const char *device;    /* the one at hand, for messages */

static _Noreturn void fail(const char *step, int error)
{
	fprintf(stderr, "vfio_probe: %s: %s: %s (errno %d)\n", device, step, strerror(error), error);
	exit(1);
}

static int check(int result, const char *step)
{
	if (result < 0)
		fail(step, errno);
	return result;
}

/* The number of the device's IOMMU group: the last element of a link in sysfs, which every container has. */
static int find_group(void)
{
	char path[PATH_MAX], target[PATH_MAX];
	snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/iommu_group", device);
	ssize_t length = readlink(path, target, sizeof target - 1);
	if (length < 0)
		fail(path, errno);
	target[length] = '\0';
	const char *last = strrchr(target, '/');
	return atoi(last ? last + 1 : target);
}

static void probe(void)
{
	char path[PATH_MAX];
	int number = find_group();
	snprintf(path, sizeof path, "/dev/vfio/%d", number);
	int group = check(open(path, O_RDWR | O_CLOEXEC), path);

	struct vfio_group_status status = {.argsz = sizeof status};
	check(ioctl(group, VFIO_GROUP_GET_STATUS, &status), "VFIO_GROUP_GET_STATUS");
	if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		fail("the group is not viable: another device in it has a host driver", EPERM);

	int container = check(open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC), "/dev/vfio/vfio");
	if (check(ioctl(container, VFIO_GET_API_VERSION), "VFIO_GET_API_VERSION") != VFIO_API_VERSION)
		fail("VFIO_GET_API_VERSION: not the version this program knows", EPROTO);
	check(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container), "VFIO_GROUP_SET_CONTAINER");
	check(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU), "VFIO_SET_IOMMU");
	int opened = check(ioctl(group, VFIO_GROUP_GET_DEVICE_FD, device), "VFIO_GROUP_GET_DEVICE_FD");

	struct vfio_device_info info = {.argsz = sizeof info};
	check(ioctl(opened, VFIO_DEVICE_GET_INFO, &info), "VFIO_DEVICE_GET_INFO");
	printf("{\"device\": \"%s\", \"group\": %d, \"viable\": true, \"regions\": %u, \"irqs\": %u}\n",
	       device, number, info.num_regions, info.num_irqs);
	if (fflush(stdout) != 0)
		fail("stdout", errno);
}

int main(int argc, char **argv)
{
	int hold = 0, devices = 0;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--hold") == 0)
			hold = 1;
		else if (argv[i][0] == '-')
			devices = INT_MIN;
		else
			devices++;
	}
	if (devices <= 0) {
		fputs("usage: vfio_probe BDF... [--hold]\n", stderr);
		return 2;
	}
	sigset_t end;
	sigemptyset(&end);
	sigaddset(&end, SIGINT);
	sigaddset(&end, SIGTERM);
	/* The kernel drops signals without a handler for a container's process 1, but not those that are blocked. */
	sigprocmask(SIG_BLOCK, &end, NULL);
	for (int i = 1; i < argc; i++) {
		device = argv[i];
		if (strcmp(device, "--hold") != 0)
			probe();
	}
	if (hold)
		sigwaitinfo(&end, NULL);
	return 0;
}
