package jobs

import (
	"context"
	"errors"
	"fmt"
)

// Code is the machine-readable cause of a fault. The values are part of the
// wire contract: appended to, never renamed.
type Code string

// The codes of the contract.
const (
	CodeTimeout            Code = "timeout"
	CodeUnreachable        Code = "unreachable"
	CodeRefused            Code = "refused"
	CodeAuthFailed         Code = "auth_failed"
	CodeNoCredentials      Code = "no_credentials"
	CodeProtocolError      Code = "protocol_error"
	CodeNoSuchObject       Code = "no_such_object"
	CodeTooBig             Code = "too_big"
	CodePromptNotFound     Code = "prompt_not_found"
	CodeCommandError       Code = "command_error"
	CodeHostKeyChanged     Code = "host_key_changed"
	CodeBusy               Code = "busy"
	CodeRateLimited        Code = "rate_limited"
	CodeCircuitOpen        Code = "circuit_open"
	CodePolicyDenied       Code = "policy_denied"
	CodeBadSignature       Code = "bad_signature"
	CodeReplayed           Code = "replayed"
	CodeExpired            Code = "expired"
	CodeCancelled          Code = "cancelled"
	CodeUnsupportedAction  Code = "unsupported_action"
	CodeUnsupportedSchema  Code = "unsupported_schema"
	CodeInvalidJob         Code = "invalid_job"
	CodeResultTooLarge     Code = "result_too_large"
	CodePoison             Code = "poison"
	CodeInterruptedWrite   Code = "interrupted_write"
	CodeJournalUnavailable Code = "journal_unavailable"
	CodeInternal           Code = "internal"
)

// Stage says how far a job had come.
type Stage string

// The stages of the contract, in the order in which a job passes them.
const (
	StageQueue       Stage = "queue"
	StagePolicy      Stage = "policy"
	StageCredentials Stage = "credentials"
	StageConnect     Stage = "connect"
	StageLogin       Stage = "login"
	StageExecute     Stage = "execute"
	StageParse       Stage = "parse"
	StageVerify      Stage = "verify"
)

// Fault is the error of a job as the core gets it. Drivers return one (or wrap
// it); an error that is none becomes CodeInternal without its text, because
// texts of libraries may quote what they were given.
type Fault struct {
	Code      Code   `json:"code"`
	Message   string `json:"message"` // for people; holds no secret
	Stage     Stage  `json:"stage"`
	Retryable bool   `json:"retryable"` // asking again later may help
}

// Faultf makes a Fault. Whether it is retryable follows from the code.
func Faultf(code Code, stage Stage, format string, args ...any) *Fault {
	return &Fault{Code: code, Stage: stage, Message: fmt.Sprintf(format, args...), Retryable: code.retryable()}
}

func (f *Fault) Error() string { return string(f.Code) + ": " + f.Message }

func (c Code) retryable() bool {
	switch c {
	case CodeTimeout, CodeUnreachable, CodeRefused, CodeBusy, CodeRateLimited, CodeCircuitOpen, CodeJournalUnavailable:
		return true
	default:
		return false
	}
}

// The causes with which the context of a job ends. A driver tells them apart
// with context.Cause; FaultOf does it for all of them.
var (
	ErrTimeout   = errors.New("the time limit of the job ended")
	ErrCancelled = errors.New("the job was cancelled by the core")
	ErrStopping  = errors.New("the satellite is stopping")
)

// FaultOf turns the error of a driver into a Fault. A clear answer of the
// device stands; else what ended ctx wins over what the interrupted operation
// said of it.
func FaultOf(ctx context.Context, err error) *Fault {
	stage := StageExecute
	var fault *Fault
	if errors.As(err, &fault) {
		stage = fault.Stage
	}
	if fault != nil && fault.definite() {
		return fault
	}
	switch cause := context.Cause(ctx); {
	case cause == nil:
	case errors.Is(cause, ErrCancelled):
		return Faultf(CodeCancelled, stage, "%v", ErrCancelled)
	case errors.Is(cause, ErrStopping):
		return Faultf(CodeCancelled, stage, "%v", ErrStopping)
	case fault == nil || fault.Code != CodeTimeout:
		return Faultf(CodeTimeout, stage, "no answer within the job's time limit")
	}
	if fault != nil {
		return fault
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return Faultf(CodeTimeout, stage, "no answer within the job's time limit")
	}
	return Faultf(CodeInternal, stage, "the driver failed with an error of no known kind (%T)", err)
}

// definite says that the equipment (or a check of ours) gave a clear answer,
// so that the state of a write is known.
func (f *Fault) definite() bool {
	switch f.Code {
	case CodeTimeout, CodeUnreachable, CodeProtocolError, CodeInternal, CodeCancelled, CodePromptNotFound, CodeResultTooLarge:
		return false
	default:
		return true
	}
}

// leavesWriteUnknown says that a write which ended with f may have run.
// Before StageExecute no byte of the change has left.
func (f *Fault) leavesWriteUnknown() bool {
	switch f.Stage {
	case StageExecute, StageParse, StageVerify, "":
		return !f.definite()
	default:
		return false
	}
}
