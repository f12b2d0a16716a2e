/* A deadlock of the main thread: with this library preloaded, SIGUSR1 makes it wait for a lock that
   it holds. Which thread gets a signal is up to the kernel: the others pass it on. */

#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void lock_twice(int number)
{
    if (syscall(SYS_gettid) != getpid()) {
        syscall(SYS_tgkill, getpid(), getpid(), number);
        return;
    }
    pthread_mutex_lock(&lock);
    pthread_mutex_lock(&lock);
}

__attribute__((constructor)) static void prepare(void) { signal(SIGUSR1, lock_twice); }
