// debugged: a program for a debugger to stop in: its memory is larger than a small budget, so that nearly each
// line that it is stepped through touches pages that are out.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kPage = 4096, kPages = 12000 };

// Volatile: a debugger is to find them wherever it stops.
__attribute__((noinline)) static int sum(const char* pages, int step) {
  volatile int total = 0;
  for (volatile int i = 0; i < kPages; i += step) {
    total += pages[(size_t)i * kPage];
  }
  return total;
}

static void* body(void* argument) {
  char* const pages = malloc((size_t)kPages * kPage);
  if (pages == NULL) return NULL;
  for (int i = 0; i < kPages; ++i) memset(pages + (size_t)i * kPage, i % 101, kPage);
  const int total = sum(pages, *(const int*)argument);
  printf("sum %d\n", total);
  free(pages);
  return NULL;
}

int main(void) {
  int step = 1000;
  pthread_t thread;
  if (pthread_create(&thread, NULL, body, &step) != 0) return 1;
  pthread_join(thread, NULL);
  step = 3000;
  body(&step);
  return 0;
}
