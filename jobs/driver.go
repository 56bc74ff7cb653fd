package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Driver runs jobs of one kind on equipment.
//
// Run returns soon (100 ms) after ctx has ended and leaves no goroutine and no
// connection behind, but for those it keeps on purpose and closes by itself.
// It is called from many goroutines at once. It dials through the Network that
// it was made with, never by itself. It gets the parameters checked by its
// action's Check. An error is a *Fault (or wraps one): its Stage must say
// whether a byte of a change may have left; a Fault from StageExecute on that
// is no clear answer of the device makes a write indeterminate. With an error,
// Output.Data may still hold what came before it.
type Driver interface {
	Run(ctx context.Context, job *Job) (Output, error)
}

// DriverFunc lets a function be a Driver.
type DriverFunc func(ctx context.Context, job *Job) (Output, error)

// Run calls f.
func (f DriverFunc) Run(ctx context.Context, job *Job) (Output, error) { return f(ctx, job) }

// Output is what a driver found.
type Output struct {
	Data      any // encoded as the result's data; nil: none
	Learned   any // of the device itself: a working PDU size, a host key
	Partial   bool
	Truncated bool // cut at a limit of the job
	Warnings  []string
}

// Action is a row of the Registry: how jobs with this name are judged and run.
type Action struct {
	Class   Class                 // what a job is unless ClassOf says otherwise
	ClassOf func(job *Job) Class  // nil: Class. Judges by the parameters
	Asks    bool                  // the job's own "class" may lower a write to a read (cli.run, ssh.exec, http.request)
	Target  bool                  // a target is required
	Check   func(job *Job) *Fault // nil: no parameters. Called before anything else is done for the job
	Driver  Driver
}

// Registry has the actions by their names. It is not changed once in use.
type Registry map[string]Action

// DecodeParams reads the parameters of job into v, a pointer to a struct with
// json tags. A missing object leaves v as it is; an unknown or ill-typed
// parameter is CodeInvalidJob and named.
func DecodeParams(job *Job, v any) *Fault {
	if len(job.Params) == 0 {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(job.Params))
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	var typeErr *json.UnmarshalTypeError
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return nil
	case errors.As(err, &typeErr):
		return Invalid("params."+typeErr.Field, "must be %s, not %s", jsonKind(typeErr.Type.Kind().String()), typeErr.Value)
	case strings.HasPrefix(err.Error(), "json: unknown field "):
		name := strings.Trim(strings.TrimPrefix(err.Error(), "json: unknown field "), `"`)
		return Invalid("params."+name, "is no parameter of %s", job.Action)
	default:
		return Invalid("params", "cannot be read as the parameters of %s", job.Action)
	}
}

func jsonKind(goKind string) string {
	switch goKind {
	case "string":
		return "a string"
	case "bool":
		return "true or false"
	case "slice", "array":
		return "a list"
	case "struct", "map", "ptr", "interface":
		return "an object"
	default:
		return "a number"
	}
}

// Invalid is the fault of a job whose field is wrong: it names the field and
// says what it must be.
func Invalid(field, format string, args ...any) *Fault {
	return Faultf(CodeInvalidJob, StageQueue, "%s %s", field, fmt.Sprintf(format, args...))
}

// NoParams is the Check of an action without parameters.
func NoParams(job *Job) *Fault { return DecodeParams(job, &struct{}{}) }

type emitKey struct{}

// WithEmit gives the driver a way to send a part of its output before the end.
func WithEmit(ctx context.Context, emit func(part any) error) context.Context {
	return context.WithValue(ctx, emitKey{}, emit)
}

// Emit sends a part of the output of a job that asked for "stream": true. It
// reports false where nobody wants parts: the driver then keeps it for the end.
func Emit(ctx context.Context, part any) (bool, error) {
	emit, ok := ctx.Value(emitKey{}).(func(part any) error)
	if !ok {
		return false, nil
	}
	return true, emit(part)
}
