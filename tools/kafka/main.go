// A Kafka broker for tests: kfake, which speaks the real protocol and keeps all in memory. It listens
// on 127.0.0.1 at the port of its one argument, makes topics that are asked for, and ends on SIGTERM.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/twmb/franz-go/pkg/kfake"
)

func main() {
	if len(os.Args) != 2 {
		end("usage: kafka PORT")
	}
	port, err := strconv.Atoi(os.Args[1])
	if err != nil {
		end("not a port: " + os.Args[1])
	}
	cluster, err := kfake.NewCluster(
		kfake.Ports(port),
		kfake.AllowAutoTopicCreation(),
		kfake.DefaultNumPartitions(3),
		kfake.WithLogger(kfake.BasicLogger(os.Stderr, kfake.LogLevelInfo)),
	)
	if err != nil {
		end(err.Error())
	}
	fmt.Fprintln(os.Stderr, "listening at", cluster.ListenAddrs()[0])
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	<-signals
	cluster.Close()
}

func end(why string) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}
