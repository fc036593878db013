/* vfpool: the CNI executable.
 *
 * The container runtime or Multus runs it. It hands the call (CNI_* environment, stdin, an open descriptor
 * of the pod's network namespace) to the node agent over a unix socket, prints what the agent answers and
 * exits with the status that the agent names. cni/wire.py is the other end and describes the wire format.
 *
 * Where no agent listens it waits for one that restarts; then the call fails, to be tried again (STATUS:
 * unavailable). Except for a DEL: every change to a VF has been recorded before it was made, so without
 * a record of the container there is nothing to undo, and the DEL is done. It needs the agent where there is a
 * record, where sriov-cni has one, or where that cannot be read. The state folder is VFPOOL_STATE of the
 * environment, the socket VFPOOL_SOCKET, where they are not the usual ones.
 *
 * Statically linked, no stdio, no heap: hosts have no interpreter and maybe another libc, and in chained
 * mode every pod of the node runs this.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_SOCKET "/run/vfpool/cni.sock"
#define DEFAULT_STATE "/var/lib/vfpool"
#define FORERUNNER "/var/lib/cni/sriov"      /* sriov-cni's records: see cni/takeover.py */
#define SUPPORTED "[\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]"

enum {
    ENV_LIMIT = 64 << 10,
    STDIN_LIMIT = 4 << 20,
    ANSWER_LIMIT = 4 << 20,
    HEADER_LIMIT = 32,       /* of an answer: "<exit status> <bytes>\n" */
    QUOTE_LIMIT = 256,       /* bytes of one piece of an error message */
    RECORD_HEAD = 8 << 10,   /* of a record: its owner stands near its begin */
    RETRY_MS = 10,
};

/* Error codes of the CNI specification. */
enum { BAD_ENVIRONMENT = 4, IO_FAILURE = 5, BAD_CONFIG = 6, TRY_AGAIN = 11, UNAVAILABLE = 50 };

enum found { NONE, RECORD, UNREADABLE };

struct text {
    size_t size;
    char bytes[8 << 10];         /* two long names of the caller, escaped, and the words around them */
};

/* Untouched pages of these cost no memory: a usual call has a few KiB of each. */
static char env_block[ENV_LIMIT];
static char config[STDIN_LIMIT + 1];         /* one more byte than allowed: the sign of too many */
static char answer[HEADER_LIMIT + ANSWER_LIMIT];

static char cni_version[32] = "1.1.0";       /* what the answer echoes */
static const char *socket_path = DEFAULT_SOCKET;
static const char *duty = "";                /* why a DEL needs the agent */
static long long started;

static long long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Wait until fd is ready for events; false: the deadline came first. A deadline of -1 never comes. */
static bool wait_for(int fd, short events, long long deadline)
{
    struct pollfd entry = {.fd = fd, .events = events};
    for (;;) {
        long long left = deadline < 0 ? -1 : deadline - now_ms();
        if (deadline >= 0 && left <= 0)
            return false;
        int ready = poll(&entry, 1, left > INT_MAX ? INT_MAX : (int)left);
        if (ready > 0 || (ready < 0 && errno != EINTR))
            return true;                     /* the system call that follows says what is wrong */
    }
}

static bool print(const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t n = write(STDOUT_FILENO, bytes, size);
        if (n >= 0) {
            bytes += n;
            size -= (size_t)n;
        } else if (errno == EAGAIN) {
            wait_for(STDOUT_FILENO, POLLOUT, -1);
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

static void put(struct text *text, const char *piece)
{
    size_t size = strlen(piece);
    if (size <= sizeof text->bytes - text->size) {
        memcpy(text->bytes + text->size, piece, size);
        text->size += size;
    }
}

/* The inside of a JSON string. Bytes beyond ASCII are taken as Latin-1: they need not be UTF-8, JSON must. */
static void put_quoted(struct text *text, const char *piece)
{
    static const char hex[] = "0123456789abcdef";
    for (size_t i = 0; piece[i] != '\0' && i < QUOTE_LIMIT; i++) {
        unsigned char c = (unsigned char)piece[i];
        if (c == '"' || c == '\\')
            put(text, (const char[]){'\\', (char)c, '\0'});
        else if (c < 0x20 || c > 0x7e)
            put(text, (const char[]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15], '\0'});
        else
            put(text, (const char[]){(char)c, '\0'});
    }
}

static void put_number(struct text *text, unsigned long long number)
{
    char digits[24];
    char *at = digits + sizeof digits - 1;
    *at = '\0';
    do
        *--at = (char)('0' + number % 10);
    while (number /= 10);
    put(text, at);
}

/* Print a CNI error object, its message made of the pieces up to a NULL, and exit. */
_Noreturn static void fail(unsigned code, const char *const pieces[])
{
    struct text out;
    out.size = 0;
    const char *command = getenv("CNI_COMMAND");
    const char *ifname = getenv("CNI_IFNAME");
    put(&out, "{\"cniVersion\":\"");
    put(&out, cni_version);
    put(&out, "\",\"code\":");
    put_number(&out, code);
    put(&out, ",\"msg\":\"");
    for (; *pieces != NULL; pieces++)
        put_quoted(&out, *pieces);
    put(&out, "\",\"details\":\"CNI_COMMAND=");
    put_quoted(&out, command != NULL ? command : "");
    put(&out, " CNI_IFNAME=");
    put_quoted(&out, ifname != NULL ? ifname : "");
    put(&out, ", after ");
    put_number(&out, (unsigned long long)(now_ms() - started));
    put(&out, " ms\"}\n");
    print(out.bytes, out.size);
    _exit(1);
}

#define FAIL(code, ...) fail(code, (const char *const[]){__VA_ARGS__, NULL})

/* Not strerror: containerd takes a DEL whose error says "no such file or directory" or "not found" for done. */
static const char *explain(int error)
{
    static struct text other;
    switch (error) {
    case ENOENT:       return "the socket does not exist (ENOENT)";
    case ECONNREFUSED: return "nothing listens on the socket (ECONNREFUSED)";
    case EAGAIN:       return "too many calls are waiting on the socket (EAGAIN)";
    case EACCES:       return "no permission (EACCES)";
    case ENAMETOOLONG: return "the path is too long for a unix socket (ENAMETOOLONG)";
    }
    other.size = 0;
    put(&other, "errno ");
    put_number(&other, (unsigned)error);
    other.bytes[other.size] = '\0';
    return other.bytes;
}

static bool is_command(const char *command)
{
    return strcmp(getenv("CNI_COMMAND"), command) == 0;
}

/* STATUS asks whether an ADD could be served: without an agent none can. */
static unsigned agent_failure(void)
{
    return is_command("STATUS") ? UNAVAILABLE : TRY_AGAIN;
}

#define AGENT_FAILED(what, why) \
    FAIL(agent_failure(), "the vfpool agent ", what, " on ", socket_path, ": ", why, duty, \
         "; is the vfpool-agent pod running on this node?")

/* Decimal digits, at most as many as max has, and the character after them: at moves behind both. */
static bool parse_number(const char **at, const char *end, char after, unsigned long max, unsigned long *value)
{
    const char *first = *at;
    *value = 0;
    for (unsigned long left = max; *at < end && **at >= '0' && **at <= '9'; (*at)++, left /= 10) {
        *value = *value * 10 + (unsigned long)(**at - '0');
        if (*value > max || left == 0)
            return false;
    }
    return *at > first && *at < end && *(*at)++ == after;
}

static long long budget_ms(const char *name, unsigned long usual)
{
    const char *text = secure_getenv(name);
    unsigned long value;
    if (text == NULL || !parse_number(&text, text + strlen(text) + 1, '\0', 3600 * 1000, &value))
        value = usual;
    return (long long)value;
}

static const char *skip_space(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
        at++;
    return at;
}

static bool is_version_character(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
        || c == '.' || c == '-' || c == '+';
}

/* Note the top-level "cniVersion" of a JSON object where it is a plain string; the last one counts. */
static void note_version(const char *at, const char *end)
{
    static const char key[] = "cniVersion";
    int depth = 0;
    at = skip_space(at, end);
    if (at == end || *at != '{')
        return;
    while (at < end) {
        char c = *at++;
        if (c == '{' || c == '[')
            depth++;
        else if ((c == '}' || c == ']') && --depth == 0)
            return;
        if (c != '"')
            continue;
        const char *string = at;
        while (at < end && *at != '"')
            at += *at == '\\' && end - at > 1 ? 2 : 1;
        if (at == end)
            return;
        size_t size = (size_t)(at++ - string);
        if (depth != 1 || size != sizeof key - 1 || memcmp(string, key, size) != 0)
            continue;
        const char *value = skip_space(at, end);
        if (value == end || *value++ != ':')
            continue;                        /* not a key: a value of that text */
        value = skip_space(value, end);
        if (value == end || *value++ != '"')
            continue;
        const char *stop = value;
        while (stop < end && is_version_character(*stop))
            stop++;
        size = (size_t)(stop - value);
        if (stop == end || *stop != '"' || size == 0 || size >= sizeof cni_version)
            continue;
        memcpy(cni_version, value, size);
        cni_version[size] = '\0';
    }
}

static size_t read_config(void)
{
    size_t size = 0;
    while (size < sizeof config) {
        ssize_t n = read(STDIN_FILENO, config + size, sizeof config - size);
        if (n > 0)
            size += (size_t)n;
        else if (n == 0 || errno == EBADF)   /* a closed stdin is an empty one */
            break;
        else if (errno == EAGAIN)
            wait_for(STDIN_FILENO, POLLIN, -1);
        else if (errno != EINTR)
            FAIL(IO_FAILURE, "reading the network configuration from stdin failed: ", explain(errno));
    }
    return size;
}

static size_t collect_env(void)
{
    size_t size = 0;
    for (char **entry = environ; *entry != NULL; entry++) {
        if (strncmp(*entry, "CNI_", 4) != 0)
            continue;
        size_t length = strlen(*entry) + 1;
        if (length > sizeof env_block - size)
            FAIL(BAD_ENVIRONMENT, "the CNI_* environment variables exceed 64 KiB together");
        memcpy(env_block + size, *entry, length);
        size += length;
    }
    return size;
}

/* A runtime may start us with 0, 1 or 2 closed: a socket that became stdout would get the answer back. */
static int above_stdio(int fd)
{
    if (fd < 0 || fd > STDERR_FILENO)
        return fd;
    int above = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(fd);
    return above;
}

/* -1 where there is none to open: the agent says what that means, and for a DEL it is nothing unusual. */
static int open_netns(void)
{
    const char *path = getenv("CNI_NETNS");
    if (path == NULL || *path == '\0')
        return -1;
    return above_stdio(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));   /* O_NONBLOCK: the path may be a FIFO */
}

static bool is_container_id(const char *text)
{
    static const char allowed[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.-";
    return text != NULL && *text != '\0' && text[strspn(text, allowed)] == '\0';
}

static bool is_ifname(const char *text)
{
    return text != NULL && *text != '\0' && strchr(text, '/') == NULL;
}

/* Whether `container` is the owner by the record, as format_record of cni/record.py writes it. */
static enum found compare_owner(int folder, const char *name, const char *container)
{
    static const char key[] = "\"container_id\": \"";
    static char head[RECORD_HEAD];
    size_t size = 0;
    ssize_t n = 1;
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return errno == ENOENT ? NONE : UNREADABLE;      /* the agent had just deleted it */
    while (size < sizeof head && (n > 0 || (n < 0 && errno == EINTR))) {
        n = read(fd, head + size, sizeof head - size);
        size += n > 0 ? (size_t)n : 0;
    }
    close(fd);
    const char *owner = n < 0 ? NULL : memmem(head, size, key, sizeof key - 1);
    if (owner == NULL)
        return UNREADABLE;
    owner += sizeof key - 1;
    const char *quote = memchr(owner, '"', (size_t)(head + size - owner));
    if (quote == NULL)
        return UNREADABLE;
    size_t length = strlen(container);
    return (size_t)(quote - owner) == length && memcmp(owner, container, length) == 0 ? RECORD : NONE;
}

/* Those that the agent set aside too: it may have read one half, and nothing was undone by it. */
static bool is_record(const char *name)
{
    const char *suffix = strrchr(name, '.');
    return suffix != NULL && (strcmp(suffix, ".json") == 0 || strcmp(suffix, ".damaged") == 0);
}

/* Not readdir: it would bring a heap. */
static enum found search_folder(int state, const char *name, const char *container)
{
    struct entry {                           /* struct linux_dirent64 of getdents64(2) */
        uint64_t inode;
        int64_t offset;
        unsigned short size;
        unsigned char type;
        char name[];
    };
    static alignas(struct entry) char listing[32 << 10];
    enum found found = NONE;
    long size = 0;
    int folder = openat(state, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return errno == ENOENT ? NONE : UNREADABLE;
    while (found == NONE && (size = syscall(SYS_getdents64, folder, listing, sizeof listing)) > 0) {
        const struct entry *entry;
        for (long at = 0; found == NONE && at < size; at += entry->size) {
            entry = (const void *)(listing + at);
            if (is_record(entry->name))
                found = compare_owner(folder, entry->name, container);
        }
    }
    close(folder);
    return size < 0 ? UNREADABLE : found;
}

static enum found search_forerunner(const char *container, const char *ifname)
{
    struct text path;
    path.size = 0;
    if (strlen(container) + 1 + strlen(ifname) > NAME_MAX)
        return NONE;                         /* no file has such a name */
    put(&path, FORERUNNER "/");
    put(&path, container);
    put(&path, "-");
    put(&path, ifname);
    path.bytes[path.size] = '\0';
    if (access(path.bytes, F_OK) == 0)
        return RECORD;
    return errno == ENOENT ? NONE : UNREADABLE;
}

/* In the order in which the agent makes one record out of another: sriov-cni's, the VF's, what IPAM is owed. */
static enum found search_records(const char *container, const char *ifname)
{
    const char *path = secure_getenv("VFPOOL_STATE");
    enum found found = search_forerunner(container, ifname);
    if (found != NONE)
        return found;
    int state = open(path != NULL && *path != '\0' ? path : DEFAULT_STATE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (state < 0)
        return errno == ENOENT ? NONE : UNREADABLE;
    found = search_folder(state, "vfs", container);
    if (found == NONE)
        found = search_folder(state, "ipam", container);
    close(state);
    return found;
}

/* Without an agent: exit where this DEL has nothing to do, else say why it needs the agent. */
static const char *find_duty(void)
{
    const char *container = getenv("CNI_CONTAINERID");
    const char *ifname = getenv("CNI_IFNAME");
    if (!is_container_id(container) || !is_ifname(ifname))
        return ", and CNI_CONTAINERID and CNI_IFNAME do not say whose VF it is";
    switch (search_records(container, ifname)) {
    case NONE:
        _exit(0);
    case RECORD:
        return ", and by a record this container has a VF or addresses";
    case UNREADABLE:
        break;
    }
    return ", and what records there are cannot be read";
}

static int connect_agent(void)
{
    const long long deadline = now_ms() + budget_ms("VFPOOL_CONNECT_MS", 5000);      /* a restart takes 1 to 3 s */
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(socket_path) >= sizeof address.sun_path)
        AGENT_FAILED("cannot be reached", explain(ENAMETOOLONG));
    memcpy(address.sun_path, socket_path, strlen(socket_path));
    int fd = above_stdio(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (fd < 0)
        AGENT_FAILED("cannot be reached", explain(errno));
    while (connect(fd, (const struct sockaddr *)&address, sizeof address) < 0) {
        int error = errno;
        bool dead = error == ENOENT || error == ECONNREFUSED;
        bool may_pass = dead || error == EAGAIN || error == EINTR;
        if (dead && *duty == '\0' && is_command("DEL"))
            duty = find_duty();
        if (!may_pass || now_ms() >= deadline)
            AGENT_FAILED("does not answer", explain(error));
        poll(NULL, 0, RETRY_MS);
    }
    return fd;
}

static void send_request(int fd, int netns, size_t env_size, size_t config_size, long long deadline)
{
    struct text header;
    header.size = 0;
    put(&header, "VFPOOL-CNI 1 ");
    put_number(&header, env_size);
    put(&header, " ");
    put_number(&header, config_size);
    put(&header, "\n");

    struct iovec parts[] = {{header.bytes, header.size}, {env_block, env_size}, {config, config_size}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = sizeof parts / sizeof *parts};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.bytes = {0}};
    if (netns >= 0) {
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof netns);
        memcpy(CMSG_DATA(&control.header), &netns, sizeof netns);
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
    }
    while (message.msg_iovlen > 0) {
        ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EPIPE || errno == ECONNRESET)
                return;                      /* the agent may have answered before it closed */
            if (errno == EAGAIN && !wait_for(fd, POLLOUT, deadline))
                AGENT_FAILED("did not take the request", "it is connected but does not read");
            if (errno != EAGAIN && errno != EINTR)
                AGENT_FAILED("could not be sent the request", explain(errno));
            continue;
        }
        message.msg_control = NULL;          /* the descriptor went with the first bytes */
        message.msg_controllen = 0;
        size_t sent = (size_t)n;
        while (message.msg_iovlen > 0 && sent >= message.msg_iov->iov_len) {
            sent -= message.msg_iov->iov_len;
            message.msg_iov++;
            message.msg_iovlen--;
        }
        if (message.msg_iovlen > 0) {
            message.msg_iov->iov_base = (char *)message.msg_iov->iov_base + sent;
            message.msg_iov->iov_len -= sent;
        }
    }
}

/* Print the agent's document; the exit status that the agent names. */
static int relay_answer(int fd, long long deadline)
{
    const char *document = NULL;
    unsigned long status = 0;
    unsigned long length = 0;
    size_t size = 0;
    while (document == NULL || (size_t)(answer + size - document) < length) {
        ssize_t n = recv(fd, answer + size, sizeof answer - size, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            if (!wait_for(fd, POLLIN, deadline))
                AGENT_FAILED("did not answer in time", "it took the request but has not finished it");
            continue;
        }
        if (n <= 0)
            AGENT_FAILED("closed the connection without a complete answer", "it stopped or restarted");
        size += (size_t)n;
        if (document != NULL)
            continue;
        size_t head = size < HEADER_LIMIT ? size : HEADER_LIMIT;
        const char *at = answer;
        const char *newline = memchr(answer, '\n', head);
        if (newline == NULL && head < HEADER_LIMIT)
            continue;
        if (newline == NULL || !parse_number(&at, newline, ' ', 255, &status)
            || !parse_number(&at, newline + 1, '\n', ANSWER_LIMIT, &length))
            AGENT_FAILED("gave an answer that is none", "its first line is not an exit status and a length");
        document = at;
    }
    return print(document, length) ? (int)status : 1;
}

static int print_versions(void)
{
    struct text out;
    out.size = 0;
    put(&out, "{\"cniVersion\":\"");
    put(&out, cni_version);
    put(&out, "\",\"supportedVersions\":" SUPPORTED "}\n");
    return print(out.bytes, out.size) ? 0 : 1;
}

int main(void)
{
    started = now_ms();
    signal(SIGPIPE, SIG_IGN);
    const char *other_socket = secure_getenv("VFPOOL_SOCKET");
    if (other_socket != NULL && *other_socket != '\0')
        socket_path = other_socket;
    const char *command = getenv("CNI_COMMAND");
    if (command == NULL || *command == '\0')
        FAIL(BAD_ENVIRONMENT, "CNI_COMMAND is not set: vfpool is a CNI plugin, for container runtimes to run");

    size_t config_size = read_config();
    note_version(config, config + config_size);
    if (is_command("VERSION"))     /* must work without the agent: runtimes probe with it */
        return print_versions();
    if (config_size > STDIN_LIMIT)
        FAIL(BAD_CONFIG, "the network configuration on stdin exceeds 4 MiB");
    size_t env_size = collect_env();

    int netns = open_netns();
    int fd = connect_agent();
    const long long deadline = now_ms() + budget_ms("VFPOOL_ANSWER_MS", 60000);
    send_request(fd, netns, env_size, config_size, deadline);
    return relay_answer(fd, deadline);
}
