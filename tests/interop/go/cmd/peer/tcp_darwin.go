package main

import "syscall"

var keepAlive = []struct{ name, value int }{
	{syscall.TCP_KEEPALIVE, 10},
	{0x101, 5}, // TCP_KEEPINTVL, which package syscall lacks
	{0x102, 3}, // TCP_KEEPCNT
}
