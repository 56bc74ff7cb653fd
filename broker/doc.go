// Package broker is the AMQP 0-9-1 side of the project: the satellite's
// session, which takes jobs from a queue and brings results back, and the
// small client and management client of the core's tools.
//
// A Session owns one connection at a time and builds all of it anew after each
// loss. It dials through a DialFunc, so that it knows nothing of tunnels.
//
//	session := broker.NewSession(broker.Options{DSN: dsn, Dial: dial, Queue: "usm_poller-sat-7", Dispatcher: d})
//	err := session.Run(ctx) // until ctx ends; then drains
package broker
