/* The system calls that the CNI executable makes, in a world made up by chance: they fail, stop half way, are
 * interrupted. For shim.c alone.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <setjmp.h>
#include <signal.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MOST_FILES = 12, MOST_VARIABLES = 16, MOST_DESCRIPTORS = 16, LARGE = 5 << 20, POISON = 64 };
enum kind { FREE, STANDARD, SOCKET, NETNS, STATE, VFS, IPAM, RECORD_FILE };
enum end { CLOSES, HANGS, RESETS };

struct bytes {
    char *at;
    size_t size;
    size_t used;                 /* read, or sent, so far */
};

struct file {
    char name[80];
    int error;                   /* of openat */
    int read_error;
    struct bytes content;
};

struct folder {
    int error;                   /* of openat */
    bool breaks;                 /* its listing ends with an error */
    size_t files;
    size_t listed;
    struct file file[MOST_FILES];
};

static struct {
    unsigned long number;
    uint64_t random;
    long long nanoseconds;
    jmp_buf ended;
    char *variables[MOST_VARIABLES + 1];
    struct bytes input, request, answer, output;
    enum end end;
    enum kind descriptors[MOST_DESCRIPTORS];
    int connect_error;           /* 0: an agent lives */
    unsigned connect_tries;      /* other errors come before */
    int netns_error, state_error, forerunner_error;
    struct folder folders[2];
    struct file *reading;
    bool output_fails;
    /* what happened */
    bool met_nobody, sent_netns, stalled, broke, wrote_in_vain, input_broke;
} world;

static const char *const RECORD_TEXT =
    "{\"format\": 1, \"vf\": \"0000:3b:02.1\", \"pf\": \"0000:3b:00.0\", \"index\": 1, \"phase\": \"attached\", "
    "\"owner\": {\"container_id\": \"";

static void complain(void)
{
    fprintf(stderr, "case %lu\n", world.number);
}

#define CHECK(holds) \
    do { \
        if (!(holds)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #holds); \
            complain(); \
            abort(); \
        } \
    } while (0)

/* ---- chance -------------------------------------------------------------------------------------------------- */

static uint64_t draw(void)                   /* splitmix64 */
{
    uint64_t z = world.random += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static size_t below(size_t limit)
{
    return (size_t)(draw() % limit);
}

static bool one_in(size_t count)
{
    return below(count) == 0;
}

#define ONE_OF(type, ...) ((type const[]){__VA_ARGS__})[below(sizeof((type const[]){__VA_ARGS__}) / sizeof(type))]
#define PICK(...) ONE_OF(const char *, __VA_ARGS__)
#define PICK_ERROR(...) ONE_OF(int, __VA_ARGS__)

/* Some bytes otherwise, gone, or more. */
static void damage(char *at, size_t *size, size_t room)
{
    for (size_t count = 1 + below(4); count > 0; count--) {
        size_t place = below(*size + 1);
        const char *piece = PICK("\"", "{", "}", "[", "]", ":", ",", "\\", " ", "\n", "0", "9", "-", "\xff", "\x01",
                                 "18446744073709551616", "4194304", "256", "\"cniVersion\":\"", "1.0.0\"",
                                 "\"container_id\": \"");
        size_t length = strlen(piece);
        switch (below(5)) {
        case 0:
            *size = place;
            break;
        case 1:
            if (place < *size)
                at[place] = (char)draw();
            break;
        case 2:
            if (place < *size) {
                memmove(at + place, at + place + 1, *size - place - 1);
                --*size;
            }
            break;
        default:
            if (*size + length <= room) {
                memmove(at + place + length, at + place, *size - place);
                memcpy(at + place, piece, length);
                *size += length;
            }
        }
    }
}

/* A copy that ends where its memory ends. */
static struct bytes keep(const char *from, size_t size)
{
    struct bytes made = {.at = malloc(size > 0 ? size : 1), .size = size};
    memcpy(made.at, from, size);
    return made;
}

/* ---- system calls ------------------------------------------------------------------------------------------ */

/* A read into `to` that gives some of `from`, with poison behind. */
static ssize_t give(struct bytes *from, void *to, size_t room)
{
    size_t left = from->size - from->used;
    size_t size = left < room ? left : room;
    if (size > 1 && one_in(3))
        size = 1 + below(size < 40 ? size : 40);
    size_t behind = room - size < POISON ? room - size : POISON;
    ASAN_UNPOISON_MEMORY_REGION(to, size + behind);
    memcpy(to, from->at + from->used, size);
    ASAN_POISON_MEMORY_REGION((char *)to + size, behind);
    from->used += size;
    return (ssize_t)size;
}

static int fail_with(int error)
{
    errno = error;
    return -1;
}

static int take_descriptor(enum kind kind, int lowest)
{
    for (int fd = lowest; fd < MOST_DESCRIPTORS; fd++)
        if (world.descriptors[fd] == FREE) {
            world.descriptors[fd] = kind;
            return fd;
        }
    CHECK(!"it closes what it opens");
    return -1;
}

static enum kind kind_of(int fd)
{
    CHECK(fd >= 0 && fd < MOST_DESCRIPTORS && world.descriptors[fd] != FREE);
    return world.descriptors[fd];
}

static char *world_getenv(const char *name)
{
    size_t length = strlen(name);
    for (char **variable = world.variables; *variable != NULL; variable++)
        if (strncmp(*variable, name, length) == 0 && (*variable)[length] == '=')
            return *variable + length + 1;
    return NULL;
}

static int world_clock_gettime(clockid_t clock, struct timespec *time)
{
    CHECK(clock == CLOCK_MONOTONIC);
    world.nanoseconds += (long long)below(1000000);
    time->tv_sec = world.nanoseconds / 1000000000;
    time->tv_nsec = world.nanoseconds % 1000000000;
    return 0;
}

static int world_poll(struct pollfd *entries, nfds_t count, int timeout)
{
    if (count > 0) {
        enum kind kind = kind_of(entries->fd);
        CHECK(count == 1 && (timeout > 0 || (timeout == -1 && kind == STANDARD)));
        if (one_in(4))
            return fail_with(EINTR);
        if (kind == STANDARD || (!one_in(4) && (world.answer.used < world.answer.size || world.end != HANGS)))
            return 1;
    }
    world.nanoseconds += (long long)(one_in(2) ? timeout : timeout / 2) * 1000000 * (count == 0 ? 50 : 1);
    return 0;
}

static ssize_t world_read(int fd, void *to, size_t room)
{
    if (one_in(16))
        return fail_with(EINTR);
    if (fd == STDIN_FILENO) {
        if (world.descriptors[fd] == FREE)
            return fail_with(EBADF);
        if (one_in(16))
            return fail_with(EAGAIN);
        if (one_in(2000)) {
            world.input_broke = true;
            return fail_with(EIO);
        }
        return give(&world.input, to, room);
    }
    CHECK(kind_of(fd) == RECORD_FILE);
    if (world.reading->read_error != 0)
        return fail_with(world.reading->read_error);
    return give(&world.reading->content, to, room);
}

static ssize_t world_write(int fd, const void *from, size_t size)
{
    CHECK(fd == STDOUT_FILENO);
    if (world.output_fails || world.descriptors[fd] == FREE) {
        world.wrote_in_vain = true;
        return fail_with(world.output_fails ? EPIPE : EBADF);
    }
    CHECK(world.descriptors[fd] == STANDARD);
    if (one_in(8))
        return fail_with(one_in(2) ? EINTR : EAGAIN);
    size_t taken = size > 1 && one_in(4) ? 1 + below(size) : size;
    taken = taken > size ? size : taken;
    CHECK(world.output.size + taken <= LARGE);
    memcpy(world.output.at + world.output.size, from, taken);
    world.output.size += taken;
    return (ssize_t)taken;
}

static int world_close(int fd)
{
    CHECK(kind_of(fd) != STANDARD);
    world.descriptors[fd] = FREE;
    return 0;
}

static int world_fcntl(int fd, int command, int lowest)
{
    CHECK(command == F_DUPFD_CLOEXEC);
    return take_descriptor(kind_of(fd), lowest);
}

static int world_open(const char *path, int flags)
{
    CHECK((flags & O_CLOEXEC) != 0);
    if ((flags & O_DIRECTORY) == 0) {
        CHECK(strcmp(path, world_getenv("CNI_NETNS")) == 0);
        return world.netns_error != 0 ? fail_with(world.netns_error) : take_descriptor(NETNS, 0);
    }
    const char *other = world_getenv("VFPOOL_STATE");
    CHECK(strcmp(path, other != NULL && *other != '\0' ? other : "/var/lib/vfpool") == 0);
    return world.state_error != 0 ? fail_with(world.state_error) : take_descriptor(STATE, 0);
}

static int world_openat(int fd, const char *name, int flags)
{
    CHECK((flags & O_CLOEXEC) != 0);
    enum kind kind = kind_of(fd);
    if (kind == STATE) {
        bool vfs = strcmp(name, "vfs") == 0;
        CHECK(vfs || strcmp(name, "ipam") == 0);
        int error = world.folders[vfs ? 0 : 1].error;
        return error != 0 ? fail_with(error) : take_descriptor(vfs ? VFS : IPAM, 0);
    }
    CHECK(kind == VFS || kind == IPAM);
    struct folder *folder = &world.folders[kind == VFS ? 0 : 1];
    for (size_t i = 0; i < folder->files; i++)
        if (strcmp(folder->file[i].name, name) == 0) {
            world.reading = &folder->file[i];
            world.reading->content.used = 0;
            return world.reading->error != 0 ? fail_with(world.reading->error) : take_descriptor(RECORD_FILE, 0);
        }
    CHECK(!"the file was listed");
    return -1;
}

static long world_syscall(long number, int fd, char *to, size_t room)
{
    enum kind kind = kind_of(fd);
    CHECK(number == SYS_getdents64 && (kind == VFS || kind == IPAM));
    struct folder *folder = &world.folders[kind == VFS ? 0 : 1];
    if (folder->listed == folder->files && folder->breaks)
        return fail_with(EIO);
    static char listing[MOST_FILES * 128];
    struct bytes made = {.at = listing};
    for (size_t count = 1 + below(MOST_FILES); count > 0 && folder->listed < folder->files; count--) {
        const char *name = folder->file[folder->listed++].name;
        size_t length = (19 + strlen(name) + 1 + 7) / 8 * 8;      /* struct linux_dirent64: 8, 8, 2, 1, name */
        unsigned short size = (unsigned short)length;
        memset(listing + made.size, 0x55, length);
        memcpy(listing + made.size + 16, &size, sizeof size);
        strcpy(listing + made.size + 19, name);
        made.size += length;
    }
    CHECK(made.size <= room);
    ASAN_UNPOISON_MEMORY_REGION(to, made.size + POISON);
    memcpy(to, listing, made.size);
    ASAN_POISON_MEMORY_REGION(to + made.size, POISON);
    return (long)made.size;
}

static int world_access(const char *path, int mode)
{
    char expected[1024];
    snprintf(expected, sizeof expected, "/var/lib/cni/sriov/%s-%s", world_getenv("CNI_CONTAINERID"),
             world_getenv("CNI_IFNAME"));
    CHECK(mode == F_OK && strcmp(path, expected) == 0);
    return world.forerunner_error != 0 ? fail_with(world.forerunner_error) : 0;
}

static int world_socket(int family, int type, int protocol)
{
    CHECK(family == AF_UNIX && type == (SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK) && protocol == 0);
    return one_in(500) ? fail_with(EMFILE) : take_descriptor(SOCKET, 0);
}

static int world_connect(int fd, const struct sockaddr *address, socklen_t size)
{
    CHECK(kind_of(fd) == SOCKET && fd > STDERR_FILENO && size == sizeof(struct sockaddr_un));
    CHECK(memchr(((const struct sockaddr_un *)(const void *)address)->sun_path, '\0', 108) != NULL);
    int error = world.connect_error;
    if (world.connect_tries > 0) {
        world.connect_tries--;
        error = PICK_ERROR(EINTR, EAGAIN, ENOENT, ECONNREFUSED);
    }
    world.met_nobody |= error == ENOENT || error == ECONNREFUSED;
    return error != 0 ? fail_with(error) : 0;
}

static ssize_t world_sendmsg(int fd, const struct msghdr *message, int flags)
{
    CHECK(kind_of(fd) == SOCKET && flags == MSG_NOSIGNAL);
    CHECK((message->msg_control != NULL) == (world.request.used == 0 && world.sent_netns));
    if (one_in(10)) {
        int error = PICK_ERROR(EINTR, EAGAIN, EAGAIN, EPIPE, ECONNRESET, ENOBUFS);
        world.stalled |= error == EAGAIN;
        world.broke |= error == ENOBUFS;
        return fail_with(error);
    }
    if (message->msg_control != NULL) {
        struct cmsghdr *control = CMSG_FIRSTHDR(message);
        int netns;
        CHECK(control->cmsg_type == SCM_RIGHTS && control->cmsg_len == CMSG_LEN(sizeof netns));
        memcpy(&netns, CMSG_DATA(control), sizeof netns);
        CHECK(kind_of(netns) == NETNS && netns > STDERR_FILENO);
    }
    size_t total = 0, most = one_in(3) ? 1 + below(300) : SIZE_MAX;
    for (size_t i = 0; i < message->msg_iovlen && total < most; i++) {
        size_t size = message->msg_iov[i].iov_len;
        size = size < most - total ? size : most - total;
        CHECK(size <= world.request.size - world.request.used);
        CHECK(memcmp(message->msg_iov[i].iov_base, world.request.at + world.request.used, size) == 0);
        world.request.used += size;
        total += size;
    }
    CHECK(total > 0);
    return (ssize_t)total;
}

static ssize_t world_recv(int fd, void *to, size_t room, int flags)
{
    CHECK(kind_of(fd) == SOCKET && flags == 0 && room > 0);
    if (one_in(16))
        return fail_with(EINTR);
    bool all = world.answer.used == world.answer.size;
    if (one_in(8) || (all && world.end == HANGS)) {
        world.stalled = true;
        return fail_with(EAGAIN);
    }
    return all && world.end == RESETS ? fail_with(ECONNRESET) : give(&world.answer, to, room);
}

_Noreturn static void world_exit(int status)
{
    longjmp(world.ended, status + 1);
}
