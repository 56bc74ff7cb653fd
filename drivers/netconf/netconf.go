// Package netconf calls operations of equipment by NETCONF over SSH:
// netconf.rpc. It speaks 1.0 and 1.1 (RFC 4741, RFC 6241) in the framing of
// RFC 6242.
//
// What an operation means is the core's affair: the driver checks that each is
// one well-formed element, sends them in their order on one session and stops
// at the first that the device refuses.
package netconf

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"

	"usm-satellite/drivers/secureshell"
	"usm-satellite/jobs"
)

// DefaultPort is NETCONF's own (RFC 6242, 7).
const DefaultPort = 830

// Limits on the parameters.
const (
	maxOperations = 64
	maxDepth      = 256
)

// params are those of netconf.rpc.
type params struct {
	RPC          operations `json:"rpc"` // one operation or several, as XML
	HostKey      string     `json:"host_key"`
	LegacyCrypto bool       `json:"legacy_crypto"`

	names []string // of the operations
}

// operations is a list that may be written as one string.
type operations []string

// UnmarshalJSON reads a string or a list of them.
func (o *operations) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		*o = make(operations, 1)
		return json.Unmarshal(data, &(*o)[0])
	}
	return json.Unmarshal(data, (*[]string)(o))
}

// Driver serves netconf.rpc. Make it with New.
type Driver struct{ ssh *secureshell.Dialer }

// New returns a Driver that connects by dialer.
func New(dialer *secureshell.Dialer) *Driver { return &Driver{ssh: dialer} }

// Actions returns the rows of the registry that the driver serves.
func (d *Driver) Actions() jobs.Registry {
	return jobs.Registry{"netconf.rpc": {
		Class: jobs.Write, ClassOf: classOf, Target: true,
		Check: check, Driver: d,
	}}
}

var _ jobs.Driver = (*Driver)(nil)

func check(job *jobs.Job) *jobs.Fault {
	_, fault := decode(job)
	return fault
}

// classOf is Read when every operation only gets something: get, get-config,
// get-data, get-schema and the like.
func classOf(job *jobs.Job) jobs.Class {
	p, fault := decode(job)
	if fault != nil {
		return jobs.Write
	}
	for _, name := range p.names {
		if name != "get" && !strings.HasPrefix(name, "get-") {
			return jobs.Write
		}
	}
	return jobs.Read
}

func decode(job *jobs.Job) (*params, *jobs.Fault) {
	p := &params{}
	if fault := jobs.DecodeParams(job, p); fault != nil {
		return nil, fault
	}
	if len(p.RPC) == 0 || len(p.RPC) > maxOperations {
		return nil, jobs.Invalid("params.rpc", `must be an operation as "<get/>", or a list of 1 to %d of them`, maxOperations)
	}
	if err := secureshell.CheckPin(p.HostKey); err != nil {
		return nil, jobs.Invalid("params.host_key", "%v", err)
	}
	for i, operation := range p.RPC {
		name, err := operationName(operation)
		if err != nil {
			return nil, jobs.Invalid("params.rpc", "entry %d: %v", i+1, err)
		}
		p.names = append(p.names, name)
	}
	return p, nil
}

// What is wrong with an operation.
var (
	errNotOne    = errors.New("it must be one XML element, well-formed, without anything around it")
	errForbidden = errors.New("it must have no declarations, document types or processing instructions")
	errEnd       = errors.New("it must not hold the end of a message, ]]>]]>")
	errRPC       = errors.New("it must be the operation alone, without <rpc> or <hello> around it")
	errDeep      = errors.New("it is nested too deep")
)

// operationName returns the local name of an operation. It accepts exactly one
// element: nothing that would be a second message, or another one to the
// device's parser than to ours.
func operationName(s string) (string, error) {
	if strings.Contains(s, endOfMessage) {
		return "", errEnd
	}
	dec := xml.NewDecoder(strings.NewReader(s))
	name, depth := "", 0
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", errNotOne
		}
		switch t := token.(type) {
		case xml.StartElement:
			if depth == 0 && name != "" {
				return "", errNotOne
			}
			if depth == 0 {
				name = t.Name.Local
			}
			if depth++; depth > maxDepth {
				return "", errDeep
			}
		case xml.EndElement:
			depth--
		case xml.CharData:
			if depth == 0 && len(bytes.TrimSpace(t)) > 0 {
				return "", errNotOne
			}
		case xml.ProcInst, xml.Directive:
			return "", errForbidden
		}
	}
	switch name {
	case "":
		return "", errNotOne
	case "rpc", "hello":
		return "", errRPC
	}
	return name, nil
}

// reply is an operation and what came of it.
type reply struct {
	Operation  string     `json:"operation"`
	State      string     `json:"state"` // "not_sent", "sent", "acknowledged"
	XML        string     `json:"xml"`   // the content of rpc-reply
	Errors     []rpcError `json:"errors,omitempty"`
	DurationMS int64      `json:"duration_ms"`
}

// data is that of the result.
type data struct {
	SessionID    string   `json:"session_id"`
	Version      string   `json:"version"` // "1.0" or "1.1"
	Capabilities []string `json:"capabilities"`
	Replies      []reply  `json:"replies"`
}

// learned is what a job has found out of the device.
type learned struct {
	HostKey string `json:"host_key,omitempty"`
}

// Run is netconf.rpc.
func (d *Driver) Run(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	p, fault := decode(job)
	if fault != nil {
		return jobs.Output{}, fault
	}
	if job, fault = d.ssh.Resolve(job); fault != nil {
		return jobs.Output{}, fault
	}
	port := job.Target.Port
	if port == 0 {
		port = DefaultPort
	}
	client, err := d.ssh.Dial(ctx, secureshell.Request{
		Address: job.Target.Address, Port: port, Credentials: job.Credentials, HostKey: p.HostKey, Legacy: p.LegacyCrypto,
	})
	if err != nil {
		return jobs.Output{}, err
	}
	defer func() { _ = client.End() }()
	stop, err := client.Bind(ctx)
	if err != nil {
		return jobs.Output{}, jobs.Faultf(jobs.CodeUnreachable, jobs.StageLogin, "the device closed the connection after the login")
	}
	defer stop()
	out := jobs.Output{Learned: learned{HostKey: client.HostKey}, Warnings: client.Warnings}
	s, fault := open(ctx, client, job.Limits.ResultBytes()*7/8)
	if fault != nil {
		return out, fault
	}
	fault = s.all(ctx, p)
	out.Data = s.data
	if fault != nil {
		return out, fault
	}
	return out, nil
}
