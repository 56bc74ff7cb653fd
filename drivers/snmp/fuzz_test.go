package snmp

import (
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/gosnmp/gosnmp"
)

// What a device sends must come out as JSON, or not at all.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		"302902010104067075626c6963a01c02046b8b4567020100020100300e300c06082b060102010103000500",
		"302c02010104067075626c6963a21f02046b8b45670201000201003011300f06082b060102010103004303123456",
		"303002010104067075626c6963a22302046b8b45670201000201003015301306082b060102010103004408" + "9f7904ff800000" + "00",
		"3068020103300f02020bb8020205dc04010002010304203" + "01e040d8000000001020304050607080902010102020100040004000400" + "3030040004" + "00a82a0201000201000201003000",
	} {
		if raw, err := hex.DecodeString(seed); err == nil {
			f.Add(raw)
		}
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		_ = reportIn(packet)
		for _, version := range []gosnmp.SnmpVersion{gosnmp.Version2c, gosnmp.Version3} {
			reader := &gosnmp.GoSNMP{Version: version, SecurityModel: gosnmp.UserSecurityModel, SecurityParameters: &gosnmp.UsmSecurityParameters{UserName: "u"}}
			answer, err := decode(reader, packet)
			if err != nil {
				continue
			}
			for _, pdu := range answer.Variables {
				v := varbind(pdu)
				if _, err := json.Marshal(v); err != nil {
					t.Errorf("%+v is no JSON: %v", v, err)
				}
				if v.Type == "OctetString" && v.Hex == nil {
					t.Errorf("an OctetString without hex: %+v", v)
				}
			}
		}
	})
}

// What passes the check can be sent.
func FuzzOID(f *testing.F) {
	for _, seed := range []string{"1.3.6.1", ".1.3", "2.999", "1.3.4294967295", "0.39.1", "1.40", "1..3", "1.3.04"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		oid, fault := checkOID("oid", text)
		if fault != nil {
			return
		}
		request := &gosnmp.SnmpPacket{Version: gosnmp.Version2c, PDUType: gosnmp.GetRequest, Variables: []gosnmp.SnmpPDU{{Name: oid, Type: gosnmp.Null}}}
		if _, err := request.MarshalMsg(); err != nil {
			t.Errorf("%q passes and cannot be sent: %v", oid, err)
		}
		if compareOIDs(oid, oid) != 0 || !below(oid, oid) {
			t.Errorf("%q is not itself", oid)
		}
	})
}

// FuzzSet demands that what passes the check of snmp.set can be sent.
func FuzzSet(f *testing.F) {
	for _, seed := range []string{
		`{"varbinds":[{"oid":"1.3.6.1.2.1.1.6.0","type":"OctetString","value":"rack 4"},{"oid":"1.3.1","type":"OctetString","hex":"00ff"}]}`,
		`{"varbinds":[{"oid":"1.3.6.1","type":"IPAddress","value":"192.0.2.1"},{"oid":"1.3.6.2","type":"ObjectIdentifier","value":"1.3"}]}`,
		`{"varbinds":[{"oid":"1.3.6.1","type":"Integer","value":-2147483648},{"oid":"1.3.6.1","type":"TimeTicks","value":"4294967295"}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var p setParams
		if json.Unmarshal(text, &p) != nil || p.check() != nil {
			return
		}
		pdus, fault := p.pdus()
		if fault != nil {
			t.Fatal(fault)
		}
		packet, err := (&gosnmp.SnmpPacket{Version: gosnmp.Version2c, PDUType: gosnmp.SetRequest, Variables: pdus}).MarshalMsg()
		if err != nil {
			t.Fatalf("%s passes the check and cannot be sent: %v", text, err)
		}
		again, err := (&gosnmp.GoSNMP{Version: gosnmp.Version2c}).SnmpDecodePacket(packet)
		if err != nil || len(again.Variables) != len(pdus) {
			t.Fatalf("%s was sent as %x: %v", text, packet, err)
		}
		for i, pdu := range again.Variables {
			if pdu.Type != pdus[i].Type {
				t.Fatalf("%v was sent as %v", pdus[i], pdu)
			}
		}
	})
}
