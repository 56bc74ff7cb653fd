package discover

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"usm-satellite/drivers/snmp"
	"usm-satellite/jobs"
)

// What is read of the LLDP-MIB (IEEE 802.1AB-2005, section 12): the system
// itself with its ports, its neighbours, and their management addresses.
const (
	lldpObjects   = "1.0.8802.1.1.2.1"
	lldpLocal     = lldpObjects + ".3"
	lldpPorts     = lldpLocal + ".7.1"
	lldpRemote    = lldpObjects + ".4.1"
	lldpAddresses = lldpObjects + ".4.2"
)

// lldpV2Objects is where the LLDP-V2-MIB (IEEE 802.1AB-2009 and 2016, section
// 11.5) has the same tables. A port is known by its ifIndex there, and what is
// remote also by the destination address of its frames, which is one more part
// of the index and one more column.
const lldpV2Objects = "1.3.111.2.802.1.1.13.1"

// maxNeighbours is where a list of neighbours ends that no real device has.
const maxNeighbours = 8192

type lldpDriver struct{ walk jobs.Driver }

type lldpData struct {
	Supported  bool        `json:"supported"` // false: the device has nothing of either MIB
	Local      *station    `json:"local,omitempty"`
	Ports      []localPort `json:"ports"`
	Neighbours []neighbour `json:"neighbours"`
}

// station is a system as LLDP tells of it.
type station struct {
	ChassisID        string   `json:"chassis_id"`
	ChassisIDSubtype string   `json:"chassis_id_subtype"`
	SysName          string   `json:"sys_name"`
	SysDescr         string   `json:"sys_descr"`
	Capabilities     []string `json:"capabilities"`         // that it has
	Enabled          []string `json:"capabilities_enabled"` // that it uses
}

// port is an end of a link.
type port struct {
	PortID        string `json:"port_id"`
	PortIDSubtype string `json:"port_id_subtype"`
	PortDescr     string `json:"port_descr"`
}

// name is by what people call the port: where its id is no name, devices put
// the name into the description.
func (p port) name() string {
	if p.PortIDSubtype != "interface_name" && p.PortDescr != "" {
		return p.PortDescr
	}
	return p.PortID
}

type localPort struct {
	Number uint32 `json:"local_port_num"`
	port
}

type neighbour struct {
	LocalPortNum uint32 `json:"local_port_num"`
	LocalPort    string `json:"local_port"` // its name; "": the device does not list the port
	station
	port

	Addresses []address `json:"management_addresses"`

	key remoteKey
}

type address struct {
	Family  string `json:"family"`
	Address string `json:"address"`
	IfIndex int    `json:"if_index,omitempty"` // of the neighbour's interface that has it
}

func checkLLDP(job *jobs.Job) *jobs.Fault {
	var none struct{}
	return jobs.DecodeParams(job, &none)
}

// Run reads the LLDP-MIB, and where that tells of no neighbours the LLDP-V2-MIB.
// When the device falls silent on the way, the data holds what was read until
// then.
func (d lldpDriver) Run(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	read, out, err := d.read(ctx, job, lldpObjects)
	if err == nil && read != nil && len(read.remotes) == 0 {
		newer, newerOut, newerErr := d.read(ctx, job, lldpV2Objects)
		if read.objects == 0 || newer != nil && len(newer.remotes) > 0 {
			read, out, err = newer, newerOut, newerErr
		}
	}
	if read == nil {
		return jobs.Output{Learned: out.Learned, Warnings: out.Warnings}, err
	}
	data, cut := read.data(job.Limits)
	out.Data = data
	out.Truncated = out.Truncated || cut
	out.Partial = out.Partial || cut
	out.Warnings = append(out.Warnings, read.warnings(err == nil)...)
	return out, err
}

// read walks one of the MIBs in one session. The reader is nil where nothing
// could be read.
func (d lldpDriver) read(ctx context.Context, job *jobs.Job, objects string) (*lldpReader, jobs.Output, error) {
	params, err := json.Marshal(map[string][]string{"roots": {objects + ".3", objects + ".4.1", objects + ".4.2"}})
	if err != nil {
		return nil, jobs.Output{}, err
	}
	walk := *job
	walk.Params = params
	// The limits of the job are for neighbours: those of the walk are wider, for
	// a table comes column by column, and one that is cut lacks all the last ones.
	const least, factor = 2 << 20, 8
	walk.Limits.MaxRows, walk.Limits.MaxResultBytes = 0, max(least, factor*job.Limits.ResultBytes())
	out, err := d.walk.Run(ctx, &walk)
	list, ok := out.Data.(interface{ List() []snmp.Varbind })
	if !ok || err != nil && len(list.List()) == 0 {
		return nil, out, err
	}
	read := newLLDPReader()
	for _, v := range list.List() {
		if rest, ok := strings.CutPrefix(v.OID, lldpV2Objects); ok {
			v.OID, read.newer = lldpObjects+rest, true
		}
		read.take(v)
	}
	return read, out, err
}

// lldpReader puts the objects of a walk together.
type lldpReader struct {
	local   station
	newer   bool // the objects are the LLDP-V2-MIB's
	objects int
	odd     int // objects that the MIB does not allow
	ports   map[uint32]*localPort
	remotes map[remoteKey]*neighbour
}

func newLLDPReader() *lldpReader {
	return &lldpReader{
		local:   station{Capabilities: []string{}, Enabled: []string{}},
		ports:   make(map[uint32]*localPort),
		remotes: make(map[remoteKey]*neighbour),
	}
}

func (r *lldpReader) take(v snmp.Varbind) {
	r.objects++
	allowed := true
	if rest, ok := under(v.OID, lldpPorts); ok {
		allowed = r.takePort(rest, v)
	} else if rest, ok := under(v.OID, lldpAddresses+".1"); ok {
		allowed = r.takeAddress(rest, v)
	} else if rest, ok := under(v.OID, lldpRemote+".1"); ok {
		allowed = r.takeRemote(rest, v)
	} else if rest, ok := under(v.OID, lldpLocal); ok {
		r.takeLocal(rest, v)
	}
	if !allowed {
		r.odd++
	}
}

// takeLocal reads the scalars of lldpLocalSystemData.
func (r *lldpReader) takeLocal(oid []uint32, v snmp.Varbind) {
	if len(oid) != 2 || oid[1] != 0 {
		return // of lldpLocManAddrTable, which nobody asked for
	}
	r.local.take(oid[0], v)
}

// take reads one of the six objects that tell of a system. They have the same
// order in lldpLocalSystemData, and in lldpRemTable around those of the port.
func (s *station) take(object uint32, v snmp.Varbind) {
	switch object {
	case 1:
		s.ChassisIDSubtype = chassisSubtype(number(v))
	case 2:
		s.ChassisID = identity(s.ChassisIDSubtype, octets(v))
	case 3:
		s.SysName = text(octets(v))
	case 4:
		s.SysDescr = text(octets(v))
	case 5:
		s.Capabilities = capabilities(octets(v))
	case 6:
		s.Enabled = capabilities(octets(v))
	}
}

// take reads one of the three objects that tell of a port.
func (p *port) take(object uint32, v snmp.Varbind) {
	switch object {
	case 1:
		p.PortIDSubtype = portSubtype(number(v))
	case 2:
		p.PortID = identity(p.PortIDSubtype, octets(v))
	case 3:
		p.PortDescr = text(octets(v))
	}
}

// takePort reads a cell of lldpLocPortTable.
func (r *lldpReader) takePort(oid []uint32, v snmp.Varbind) bool {
	if len(oid) != 2 {
		return false
	}
	p := r.ports[oid[1]]
	if p == nil {
		p = &localPort{Number: oid[1]}
		r.ports[oid[1]] = p
	}
	p.take(oid[0]-1, v)
	return true
}

// takeRemote reads a cell of lldpRemTable.
func (r *lldpReader) takeRemote(oid []uint32, v snmp.Varbind) bool {
	key, rest, ok := r.keyOf(oid)
	if !ok || len(rest) != 0 {
		return false
	}
	n := r.remotes[key]
	if n == nil {
		if len(r.remotes) > maxNeighbours { // one more than are told of
			return true
		}
		n = &neighbour{LocalPortNum: key.localPort, Addresses: []address{}, key: key}
		n.Capabilities, n.Enabled = []string{}, []string{}
		r.remotes[key] = n
	}
	column := oid[0]
	if r.newer {
		column--
	}
	switch {
	case column == 4 || column == 5:
		n.station.take(column-3, v)
	case column >= 6 && column <= 8:
		n.port.take(column-5, v)
	case column >= 9 && column <= 12:
		n.station.take(column-6, v)
	}
	return true
}

// takeAddress reads a cell of lldpRemManAddrTable: the address is in its
// index.
func (r *lldpReader) takeAddress(oid []uint32, v snmp.Varbind) bool {
	key, rest, ok := r.keyOf(oid)
	if !ok {
		return false
	}
	found, ok := managementAddress(rest)
	n := r.remotes[key]
	if !ok || n == nil { // a neighbour that came while the tables were read is left to the next job
		return ok
	}
	at := slices.IndexFunc(n.Addresses, func(a address) bool { return a.Family == found.Family && a.Address == found.Address })
	if at < 0 {
		const most = 64
		if len(n.Addresses) == most {
			return true
		}
		n.Addresses = append(n.Addresses, found)
		at = len(n.Addresses) - 1
	}
	const ifIndex = 2 // of LldpManAddrIfSubtype
	switch a := &n.Addresses[at]; {
	case oid[0] == 3 && number(v) == ifIndex:
		a.IfIndex = -1 // column 4 says which
	case oid[0] == 4 && a.IfIndex < 0:
		a.IfIndex = max(number(v), 0)
	}
	return true
}

// data lists what was read within the limits of a job; cut says that there is
// more.
func (r *lldpReader) data(limits jobs.Limits) (d lldpData, cut bool) {
	d = lldpData{Supported: r.objects > 0, Ports: []localPort{}, Neighbours: []neighbour{}}
	const frame = 2 << 10 // the rest of the result
	room := max(limits.ResultBytes()-frame, 0)
	if d.Supported {
		d.Local = &r.local
		fits(&room, d.Local)
	}
	rows := maxNeighbours
	if limits.MaxRows > 0 {
		rows = min(rows, limits.MaxRows)
	}
	for _, n := range slices.SortedFunc(maps.Values(r.remotes), func(a, b *neighbour) int { return a.key.compare(b.key) }) {
		if p := r.ports[n.LocalPortNum]; p != nil {
			n.LocalPort = p.name()
		}
		for i := range n.Addresses {
			n.Addresses[i].IfIndex = max(n.Addresses[i].IfIndex, 0)
		}
		if len(d.Neighbours) == rows || !fits(&room, n) {
			cut = true
			break
		}
		d.Neighbours = append(d.Neighbours, *n)
	}
	for _, number := range slices.Sorted(maps.Keys(r.ports)) {
		if !fits(&room, r.ports[number]) {
			return d, true
		}
		d.Ports = append(d.Ports, *r.ports[number])
	}
	return d, cut
}

// fits takes what v needs in a result out of room, if there is that much.
func fits(room *int, v any) bool {
	text, err := json.Marshal(v)
	if err != nil || len(text)+1 > *room {
		return false
	}
	*room -= len(text) + 1
	return true
}

func (r *lldpReader) warnings(whole bool) []string {
	var all []string
	if r.objects == 0 && whole {
		all = append(all, "the device has nothing of the LLDP-MIB (1.0.8802.1.1.2) or the LLDP-V2-MIB (1.3.111.2.802.1.1.13): LLDP or its SNMP part is off there, or hidden from this credential")
	}
	if r.odd > 0 {
		all = append(all, strconv.Itoa(r.odd)+" objects were left out: their index is none of the LLDP-MIB's")
	}
	return all
}

// remoteKey is the index of lldpRemTable.
type remoteKey struct{ timeMark, localPort, destination, index uint32 } // destination: of the LLDP-V2-MIB only

func (k remoteKey) compare(o remoteKey) int {
	return cmp.Or(cmp.Compare(k.localPort, o.localPort), cmp.Compare(k.timeMark, o.timeMark),
		cmp.Compare(k.destination, o.destination), cmp.Compare(k.index, o.index))
}

// keyOf splits what follows a table: column, key, and the rest of the index.
func (r *lldpReader) keyOf(oid []uint32) (key remoteKey, rest []uint32, ok bool) {
	switch {
	case r.newer && len(oid) >= 5:
		return remoteKey{oid[1], oid[2], oid[3], oid[4]}, oid[5:], true
	case !r.newer && len(oid) >= 4:
		return remoteKey{oid[1], oid[2], 0, oid[3]}, oid[4:], true
	}
	return key, nil, false
}
