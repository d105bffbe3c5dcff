package main

import "syscall"

var keepAlive = []struct{ name, value int }{
	{syscall.TCP_KEEPIDLE, 10},
	{syscall.TCP_KEEPINTVL, 5},
	{syscall.TCP_KEEPCNT, 3},
}
