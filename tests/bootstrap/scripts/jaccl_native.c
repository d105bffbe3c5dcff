/* Does what native JACCL does on its side channel in the init of a mesh: blocking sockets, and no byte is checked.

   Prints how it would reach each peer, as jaccl_stand_in.py does. With the argument `hold:N` it stops before gather N,
   and says so, until SIGUSR1 comes; N is -1 before it opens a socket. With `more:1` it sends a byte too many in the
   gather of the lists. */

#include <arpa/inet.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 8 };

struct destination {
  int32_t local_id, queue_pair_number, packet_sequence_number, padding;
  unsigned char gid[16];
};

static int rank, size, connections[MOST], gathers;
static char **arguments; /* that follow the program's name */

static void fail(const char *what) {
  fprintf(stderr, "%s failed\n", what);
  exit(1);
}

static const char *first_of(const char *one, const char *other) {
  return getenv(one) ? getenv(one) : getenv(other) ? getenv(other) : "";
}

static int is_wanted(const char *what, int gather) {
  char word[64];
  snprintf(word, sizeof word, "%s:%d", what, gather);
  for (char **each = arguments; *each; each++)
    if (strcmp(*each, word) == 0)
      return 1;
  return 0;
}

static void hold(int gather) {
  sigset_t set;
  int number;
  if (!is_wanted("hold", gather))
    return;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set, NULL);
  printf("held at %d\n", gather);
  sigwait(&set, &number);
}

static void receive(int connection, void *data, size_t length) {
  if (length && recv(connection, data, length, MSG_WAITALL) != (ssize_t)length)
    fail("recv");
}

static void transmit(int connection, const void *data, size_t length) {
  for (ssize_t sent; length; data = (const char *)data + sent, length -= sent)
    if ((sent = send(connection, data, length, MSG_NOSIGNAL)) < 0)
      fail("send");
}

/* The root has a connection for each worker, in the order of ranks, and a worker one at place 0. */
static void connect_all(struct sockaddr_in *address) {
  int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
  if (rank == 0) {
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    if (bind(listener, (void *)address, sizeof *address) || listen(listener, size))
      fail("listen");
    for (int worker = 1; worker < size; worker++) {
      int32_t hello;
      int connection = accept(listener, NULL, NULL);
      receive(connection, &hello, sizeof hello);
      connections[hello] = connection;
    }
    close(listener);
    return;
  }
  for (int wait = 1; connect(listener, (void *)address, sizeof *address); wait *= 2) {
    if (wait > 4)
      fail("connect");
    close(listener);
    sleep(wait);
    listener = socket(AF_INET, SOCK_STREAM, 0);
  }
  connections[0] = listener;
  transmit(listener, &rank, sizeof(int32_t));
}

static void gather(const void *own, size_t length, char *all) {
  size_t more = is_wanted("more", gathers);
  hold(gathers);
  if (rank == 0) {
    memcpy(all, own, length);
    for (int worker = 1; worker < size; worker++)
      receive(connections[worker], all + worker * length, length);
    for (int worker = 1; worker < size; worker++)
      transmit(connections[worker], all, size * length + more);
  } else {
    transmit(connections[0], own, length + more);
    receive(connections[0], all, size * length);
  }
  gathers++;
}

int main(int count, char **words) {
  (void)count;
  static struct destination own[MOST], all[MOST][MOST];
  char matrix[4096] = "", host[64] = "", zeros[4 * MOST];
  int port = 0, counts[MOST];
  struct sockaddr_in address = {.sin_family = AF_INET};

  setvbuf(stdout, NULL, _IOLBF, 0);
  arguments = words + 1;
  rank = atoi(first_of("JACCL_RANK", "MLX_RANK"));
  sscanf(first_of("JACCL_COORDINATOR", "MLX_JACCL_COORDINATOR"), "%63[^:]:%d", host, &port);
  address.sin_port = htons(port);
  inet_pton(AF_INET, host, &address.sin_addr);
  FILE *file = fopen(first_of("JACCL_IBV_DEVICES", "MLX_IBV_DEVICES"), "r");
  if (!file || !fread(matrix, 1, sizeof matrix - 1, file))
    fail("reading the devices");
  for (char *row = matrix + 1; (row = strchr(row, '[')); row++)
    size++;

  hold(-1);
  connect_all(&address);
  memset(own, 0xa5, sizeof own); /* Stands for memory that was not initialised. */
  for (int peer = 0; peer < size; peer++) {
    own[peer].local_id = -1;
    if (peer != rank)
      own[peer] = (struct destination){1, 10 * rank + peer, 7, 0x5a5a5a5a, {[10] = 255, 255, 169, 254, 1, rank + 1}};
  }
  gather(&size, 4, (char *)counts);
  gather(own, size * sizeof *own, (char *)all);
  memset(counts, 0, sizeof counts);
  gather(counts, 4, zeros);
  gather(counts, 4, zeros);

  const struct destination *table = (void *)all; /* size rows of size entries, without gaps */
  for (int peer = 0; peer < size; peer++) {
    const struct destination *reached = &table[peer * size + rank];
    const unsigned char *ip = reached->gid + 12;
    if (peer != rank)
      printf("rank %d: queue pair %d at %d.%d.%d.%d\n", peer, reached->queue_pair_number, ip[0], ip[1], ip[2], ip[3]);
  }
}
