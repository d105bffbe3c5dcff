package main

import (
	"net"
	"syscall"
)

// tune sets keep-alive as the specification asks for. Go turns Nagle's algorithm off by itself.
func tune(conn *net.TCPConn) error {
	if err := conn.SetKeepAlive(true); err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(socket uintptr) {
		for _, option := range keepAlive {
			if failed == nil {
				failed = syscall.SetsockoptInt(int(socket), syscall.IPPROTO_TCP, option.name, option.value)
			}
		}
	})
	if err == nil {
		err = failed
	}
	return err
}
