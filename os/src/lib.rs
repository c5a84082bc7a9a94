//! The only place that talks to the kernel: clock, entropy, epoll, sockets.
