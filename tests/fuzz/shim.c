/* The CNI executable in a world that lies.
 *
 *     shim FIRST COUNT
 *
 * Its main() runs once for each case. What it meets is drawn from the case's number: environment, stdin, the agent
 * and what that says, the state folder, and how each system call goes. What it prints, sends and returns is then
 * held against what that world allows. Bytes behind those that a read gave are poisoned for the address sanitizer.
 * The last line on stdout counts the ways in which cases ended.
 */
#include "world.h"

static int shim_main(void);

#define _exit world_exit
#define access world_access
#define clock_gettime world_clock_gettime
#define close world_close
#define connect world_connect
#define environ world.variables
#define fcntl world_fcntl
#define getenv world_getenv
#define main shim_main
#define open world_open
#define openat world_openat
#define poll world_poll
#define read world_read
#define recv world_recv
#define secure_getenv world_getenv
#define sendmsg world_sendmsg
#define signal(...) ((void)0)
#define socket world_socket
#define syscall world_syscall
#define write world_write
#include "vfpool.c"
#undef main
#undef write

/* ---- a case ------------------------------------------------------------------------------------------------ */

static void set(size_t *count, const char *name, const char *value)
{
    if (*count == MOST_VARIABLES)
        return;
    size_t size = strlen(name) + strlen(value) + 2;
    char *made = malloc(size);
    snprintf(made, size, "%s=%s", name, value);
    world.variables[(*count)++] = made;
}

static const char *draw_text(void)
{
    static char text[70000];
    size_t size = one_in(400) ? 60000 + below(9000) : one_in(20) ? below(600) : below(20);
    for (size_t i = 0; i < size; i++)
        text[i] = (char)(1 + below(255));
    text[size] = '\0';
    return text;
}

static void draw_environment(void)
{
    size_t count = 0;
    if (!one_in(50))
        set(&count, "CNI_COMMAND", one_in(40) ? draw_text() : PICK("ADD", "ADD", "DEL", "DEL", "DEL", "CHECK", "GC",
                                                                  "STATUS", "VERSION", ""));
    if (!one_in(30))
        set(&count, "CNI_CONTAINERID", one_in(20) ? draw_text() : PICK("c1", "c1", "c1", "c12", "c", "..", "c/1",
                                                                      "c\"", ""));
    if (!one_in(30))
        set(&count, "CNI_IFNAME", one_in(20) ? draw_text() : PICK("net1", "net1", "net1", "a/b", "a\"\\\n", ""));
    if (!one_in(4))
        set(&count, "CNI_NETNS", one_in(20) ? draw_text() : PICK("/run/netns/c1", ""));
    for (size_t more = below(3); more > 0; more--)
        set(&count, PICK("CNI_ARGS", "CNI_PATH", "CNI_", "PATH", "CNI_COMMAND", "CNI"), draw_text());
    if (one_in(4))
        set(&count, "VFPOOL_SOCKET", one_in(8) ? draw_text() : PICK("/run/s", ""));
    if (one_in(4))
        set(&count, "VFPOOL_STATE", one_in(8) ? draw_text() : PICK("/state", ""));
    for (size_t more = below(3); more > 0; more--)
        set(&count, PICK("VFPOOL_CONNECT_MS", "VFPOOL_ANSWER_MS"),
            one_in(8) ? draw_text() : PICK("0", "50", "3600000", "3600001", "", "-1", "5x", "007",
                                           "18446744073709551617"));
    world.variables[count] = NULL;
}

static void draw_input(void)
{
    static char text[LARGE];
    size_t size;
    if (one_in(1000)) {
        size = (4 << 20) - 1 + below(3);
        memset(text, "{[\" \\"[below(5)], size);
    } else {
        const char *usual = PICK(
            "{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"type\":\"vfpool\"}", "", "null", "[[",
            "{\"cniVersion\":\"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0\"}",
            "{ \"cniVersion\" : \"0.4.0\" }", "\"cniVersion\":\"9\"",
            "{\"a\":{\"cniVersion\":\"0.1.0\"},\"b\":[{\"x\":\"}\\\"\"}],\"cniVersion\":\"0.3.1\"}",
            "{\"cniVersion\":\"1.1.0\",\"prevResult\":{\"cniVersion\":\"1.0.0\"},\"cniVersion\":\"1\\u002e0\"}");
        size = strlen(usual);
        memcpy(text, usual, size);
        if (one_in(2))
            damage(text, &size, 1000);
    }
    world.input = keep(text, size);
}

static void draw_answer(void)
{
    static char text[LARGE];
    static const char *const documents[] = {"", "{}", "{\"code\":7,\"msg\":\"no\"}", "\xff\0\n1 2\n"};
    const char *document = documents[below(4)];
    size_t size = strlen(document);
    size_t status = one_in(8) ? below(400) : below(2);
    int head = snprintf(text, sizeof text, "%zu %zu\n", status, one_in(10) ? below(20) : size);
    memcpy(text + head, document, size);
    size += (size_t)head;
    if (one_in(1000)) {
        size_t length = (4 << 20) - 1 + below(3);
        head = snprintf(text, sizeof text, "0 %zu\n", length);
        memset(text + head, 'x', length);
        size = (size_t)head + length;
    }
    if (one_in(3))
        damage(text, &size, sizeof text - 100);
    else if (one_in(20))
        for (size = 0; size < 100; size++)
            text[size] = (char)draw();
    world.answer = keep(text, size);
    world.end = (enum end)below(3);
}

static void draw_folder(struct folder *folder)
{
    folder->error = one_in(8) ? PICK_ERROR(ENOENT, ENOENT, EACCES, ENOTDIR) : 0;
    folder->breaks = one_in(40);
    folder->files = one_in(2) ? 0 : below(MOST_FILES);
    for (size_t i = 0; i < folder->files; i++) {
        struct file *file = &folder->file[i];
        char text[RECORD_HEAD + 500];
        snprintf(file->name, sizeof file->name, "%0*zu%s", (int)below(40), i,
                 PICK(".json", ".json", ".json", ".json.new", ".damaged", "", "json", ".JSON"));
        if (i == 0 && one_in(20))
            strcpy(file->name, PICK(".json", "json", "n", ".jso"));
        file->error = one_in(60) ? PICK_ERROR(ENOENT, EACCES, EMFILE) : 0;
        file->read_error = one_in(100) ? EISDIR : 0;
        size_t before = one_in(30) ? RECORD_HEAD - 40 - strlen(RECORD_TEXT) + below(60) : 0;
        memset(text, ' ', before);
        const char *owner = PICK("other", "c10", "x", "", "c1", "c");
        size_t size = before + (size_t)snprintf(text + before, sizeof text - before,
                                                "%s%s\", \"ifname\": \"net1\"}}\n", RECORD_TEXT, owner);
        if (one_in(30))
            damage(text, &size, sizeof text - 50);
        file->content = keep(text, size);
    }
}

static void append(struct bytes *to, const char *from, size_t size)
{
    memcpy(to->at + to->size, from, size);
    to->size += size;
}

/* What the agent is to be sent, as cni/wire.py has it. */
static void expect_request(void)
{
    static char text[LARGE], block[300000];
    struct bytes variables = {.at = block}, made = {.at = text};
    for (char **variable = world.variables; *variable != NULL; variable++)
        if (strncmp(*variable, "CNI_", 4) == 0)
            append(&variables, *variable, strlen(*variable) + 1);
    size_t input = world.descriptors[STDIN_FILENO] == FREE ? 0 : world.input.size;
    made.size = (size_t)snprintf(text, sizeof text, "VFPOOL-CNI 1 %zu %zu\n", variables.size, input);
    append(&made, block, variables.size);
    append(&made, world.input.at, input);
    world.request = keep(made.at, made.size);
}

static void draw_world(unsigned long number)
{
    static char output[LARGE];
    memset(&world, 0, sizeof world);
    world.number = number;
    world.random = number * 0x2545f4914f6cdd1d;
    world.output.at = output;
    for (int fd = 0; fd <= STDERR_FILENO; fd++)
        world.descriptors[fd] = one_in(30) ? FREE : STANDARD;
    world.connect_error = one_in(2) ? 0 : PICK_ERROR(ENOENT, ENOENT, ECONNREFUSED, EAGAIN, EACCES, EINTR);
    world.connect_tries = one_in(4) ? (unsigned)below(20) : 0;
    world.netns_error = one_in(3) ? ENOENT : 0;
    world.state_error = one_in(6) ? PICK_ERROR(ENOENT, ENOENT, EACCES, ENOTDIR, ENAMETOOLONG) : 0;
    world.forerunner_error = one_in(10) ? PICK_ERROR(0, EACCES, ENOTDIR, ELOOP) : ENOENT;
    world.output_fails = one_in(40);
    draw_environment();
    draw_input();
    draw_answer();
    draw_folder(&world.folders[0]);
    draw_folder(&world.folders[1]);
    expect_request();
    const char *netns = world_getenv("CNI_NETNS");
    world.sent_netns = world.netns_error == 0 && netns != NULL && *netns != '\0';
    strcpy(cni_version, "1.1.0");
    socket_path = DEFAULT_SOCKET;
    duty = "";
}

static void end_world(void)
{
    for (char **variable = world.variables; *variable != NULL; variable++)
        free(*variable);
    free(world.input.at);
    free(world.answer.at);
    free(world.request.at);
    for (size_t i = 0; i < 2; i++)
        for (size_t file = 0; file < world.folders[i].files; file++)
            free(world.folders[i].file[file].content.at);
}

/* ---- what the world allows --------------------------------------------------------------------------------- */

static bool ends_with(const char *name, const char *suffix)
{
    size_t length = strlen(name), size = strlen(suffix);
    return length >= size && strcmp(name + length - size, suffix) == 0;
}

static bool keeps_file(const struct file *file, const char *container)
{
    static const char key[] = "\"container_id\": \"";
    if (!(ends_with(file->name, ".json") || ends_with(file->name, ".damaged")) || file->error == ENOENT)
        return false;
    if (file->error != 0 || file->read_error != 0)
        return true;
    size_t size = file->content.size < RECORD_HEAD ? file->content.size : RECORD_HEAD;
    for (size_t at = 0; at + strlen(key) <= size; at++)
        if (memcmp(file->content.at + at, key, strlen(key)) == 0) {
            size_t from = at + strlen(key), to = from;
            while (to < size && file->content.at[to] != '"')
                to++;
            return to == size || (to - from == strlen(container)
                                  && memcmp(file->content.at + from, container, to - from) == 0);
        }
    return true;
}

/* Whether a DEL without an agent has nothing to do. */
static bool may_be_done(void)
{
    const char *command = world_getenv("CNI_COMMAND");
    const char *container = world_getenv("CNI_CONTAINERID");
    const char *ifname = world_getenv("CNI_IFNAME");
    if (!world.met_nobody || command == NULL || strcmp(command, "DEL") != 0)
        return false;
    if (container == NULL || *container == '\0' || ifname == NULL || *ifname == '\0' || strchr(ifname, '/') != NULL)
        return false;
    for (const char *at = container; *at != '\0'; at++)
        if (!(*at >= '0' && *at <= '9') && !(*at >= 'a' && *at <= 'z') && !(*at >= 'A' && *at <= 'Z') && *at != '.'
            && *at != '_' && *at != '-')
            return false;
    if (world.forerunner_error != ENOENT && strlen(container) + 1 + strlen(ifname) <= 255)
        return false;
    if (world.state_error != 0)
        return world.state_error == ENOENT;
    for (size_t i = 0; i < 2; i++) {
        const struct folder *folder = &world.folders[i];
        if (folder->error != 0 && folder->error != ENOENT)
            return false;
        if (folder->error == 0 && folder->breaks)
            return false;
        for (size_t file = 0; folder->error == 0 && file < folder->files; file++)
            if (keeps_file(&folder->file[file], container))
                return false;
    }
    return true;
}

/* The document that the agent's bytes begin with, and its exit status; false: they are no answer. */
static bool read_answer(struct bytes *document, unsigned long *status)
{
    unsigned long numbers[2] = {0, 0};
    size_t at = 0;
    for (int i = 0; i < 2; i++) {
        size_t first = at;
        for (; at < world.answer.size && world.answer.at[at] >= '0' && world.answer.at[at] <= '9'; at++) {
            numbers[i] = numbers[i] * 10 + (unsigned long)(world.answer.at[at] - '0');
            if (numbers[i] > (i == 0 ? 255u : 4u << 20) || at - first == (i == 0 ? 3 : 7))
                return false;
        }
        if (at == first || at == world.answer.size || at >= 32 || world.answer.at[at++] != " \n"[i])
            return false;
    }
    document->at = world.answer.at + at;
    document->size = numbers[1];
    *status = numbers[0];
    return world.answer.size - at >= numbers[1];
}

static const char *expect_text(const char *at, const char *end, const char *text)
{
    CHECK((size_t)(end - at) >= strlen(text) && memcmp(at, text, strlen(text)) == 0);
    return at + strlen(text);
}

/* The inside of a JSON string, and the quote behind it. */
static const char *expect_string(const char *at, const char *end)
{
    for (; at < end && *at != '"'; at++) {
        CHECK(*at >= 0x20 && *at < 0x7f);
        if (*at != '\\')
            continue;
        at++;
        CHECK(at < end && strchr("\"\\u", *at) != NULL);
        for (int i = 0; *at == 'u' && i < 4; i++)
            CHECK(end - at > 4 && strchr("0123456789abcdef", at[1 + i]) != NULL);
    }
    CHECK(at < end);
    return at + 1;
}

static unsigned long expect_error(void)
{
    const char *at = world.output.at, *end = at + world.output.size;
    unsigned long code;
    at = expect_string(expect_text(at, end, "{\"cniVersion\":\""), end);
    at = expect_text(at, end, ",\"code\":");
    CHECK(parse_number(&at, end, ',', 99, &code));
    at = expect_text(at, end, "\"msg\":\"");
    CHECK(*at != '"');
    at = expect_text(expect_string(at, end), end, ",\"details\":\"");
    at = expect_text(expect_string(at, end), end, "}\n");
    CHECK(at == end);
    return code;
}

enum ending { RELAYED, DONE, VERSIONS, UNREAD, FAILED };

static enum ending judge(int status)
{
    struct bytes document = {.at = NULL};
    unsigned long exit_status = 0;
    const char *command = world_getenv("CNI_COMMAND");
    bool version = command != NULL && strcmp(command, "VERSION") == 0;
    const char *end = world.output.at + world.output.size;
    bool answered = world.answer.used > 0 && read_answer(&document, &exit_status);
    if (world.wrote_in_vain) {
        CHECK(status == 1);
        return UNREAD;
    }
    if (may_be_done()) {
        CHECK(status == 0 && world.output.size == 0 && world.request.used == 0);
        return DONE;
    }
    if (version && !world.input_broke) {
        CHECK(status == 0 && world.request.used == 0 && world.output.size > 0);
        const char *at = expect_string(expect_text(world.output.at, end, "{\"cniVersion\":\""), end);
        expect_text(at, end, ",\"supportedVersions\":[\"0.1.0\"");
        return VERSIONS;
    }
    if (answered && world.output.size == document.size
        && memcmp(world.output.at, document.at, document.size) == 0) {
        CHECK((unsigned long)status == exit_status);
        return RELAYED;
    }
    CHECK(!answered || world.stalled || world.broke);
    CHECK(status == 1);
    unsigned long code = expect_error();
    bool asked = command != NULL && strcmp(command, "STATUS") == 0;
    CHECK(code == 4 || code == 5 || code == 6 || code == (asked ? 50 : 11));
    CHECK((code == 5) == world.input_broke);
    CHECK(code != 6 || world.input.size > 4 << 20);
    return FAILED;
}

static void on_alarm(int number)
{
    (void)number;
    static const char text[] = "it hangs\n";
    if (write(STDOUT_FILENO, text, sizeof text - 1) < 0)
        abort();
    abort();
}

int main(int count, char **arguments)
{
    CHECK(count == 3);
    unsigned long first = strtoul(arguments[1], NULL, 10), cases = strtoul(arguments[2], NULL, 10);
    unsigned long endings[5] = {0};
    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, NULL);
    __sanitizer_set_death_callback(complain);
    for (unsigned long number = first; number < first + cases; number++) {
        if (number % 1000 == first % 1000)
            alarm(60);
        draw_world(number);
        int ended = setjmp(world.ended);
        int status = ended > 0 ? ended - 1 : shim_main();
        endings[judge(status)]++;
        end_world();
    }
    printf("relayed %lu, done without an agent %lu, versions %lu, unread %lu, failed %lu\n", endings[RELAYED],
           endings[DONE], endings[VERSIONS], endings[UNREAD], endings[FAILED]);
    return 0;
}
