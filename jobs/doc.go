// Package jobs holds the contract between a core and a satellite, and what a
// satellite does with a job between its arrival and its answer.
//
// The types Job and Result are the wire contract (jobs/schema is its machine
// readable form). A Driver runs one kind of job on equipment; a Registry names
// them. The Dispatcher takes deliveries, checks, limits and runs them, and
// makes exactly one Result of each. The Journal makes sure that a write is
// never run twice.
//
// The package knows no broker, no tunnel and no protocol of any equipment: it
// imports the standard library only.
//
//	registry := jobs.Registry{"tcp.connect": {Class: jobs.Read, Target: true, Driver: driver}}
//	d := jobs.NewDispatcher(jobs.Options{Registry: registry, SatelliteID: "7"})
//	d.Handle(ctx, delivery) // runs the job, publishes its result, settles the delivery
package jobs
