module wirepeer

go 1.19

require golang.org/x/crypto v0.4.0

// Debian's package golang-golang-x-crypto-dev: nothing comes from the network.
replace golang.org/x/crypto => /usr/share/gocode/src/golang.org/x/crypto
