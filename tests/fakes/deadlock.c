/* A deadlock of the main thread: with this library preloaded, SIGUSR1 makes a process wait for a
   lock that it holds. The kernel gives the signal to the main thread. */

#include <pthread.h>
#include <signal.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void lock_twice(int number)
{
    (void) number;
    pthread_mutex_lock(&lock);
    pthread_mutex_lock(&lock);
}

__attribute__((constructor)) static void prepare(void) { signal(SIGUSR1, lock_twice); }
