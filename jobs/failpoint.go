//go:build !failpoints

package jobs

// Failpoint marks a step on a job's path at which a chaos run may end the
// process. Only a build with the tag failpoints does so; here it is nothing.
func Failpoint(string) {}
