/* The process that keeps a pod's namespaces: it waits, reaps what is left to it, and ends at SIGTERM. */

#include <signal.h>
#include <stddef.h>
#include <sys/wait.h>

int main(void)
{
	sigset_t wanted;

	sigemptyset(&wanted);
	sigaddset(&wanted, SIGCHLD);
	sigaddset(&wanted, SIGINT);
	sigaddset(&wanted, SIGTERM);
	/* The kernel drops signals without a handler for a process 1, but not those that are blocked. */
	if (sigprocmask(SIG_BLOCK, &wanted, NULL) != 0)
		return 1;
	while (sigwaitinfo(&wanted, NULL) == SIGCHLD)
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	return 0;
}
