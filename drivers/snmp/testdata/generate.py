#!/usr/bin/python3
"""Writes the .snmprec files of this folder: equipment as snmpsim plays it.

Run it here after a change: python3 generate.py. A line of a file is
OID|tag|value, with the tags of BER as decimal numbers (x: value in hex).
The objects are those of the MIBs that such equipment has; the values are
made up.
"""

import struct

INTEGER, STRING, HEX, OID, IP, C32, GAUGE, TICKS, OPAQUE, C64 = "2", "4", "4x", "6", "64", "65", "66", "67", "68x", "70"


def system(descr, object_id, name):
    return [
        ("1.3.6.1.2.1.1.1.0", STRING, descr),
        ("1.3.6.1.2.1.1.2.0", OID, object_id),
        ("1.3.6.1.2.1.1.3.0", TICKS, 123456789),
        ("1.3.6.1.2.1.1.4.0", STRING, "noc@example.net"),
        ("1.3.6.1.2.1.1.5.0", STRING, name),
        ("1.3.6.1.2.1.1.6.0", STRING, "rack 4"),
        ("1.3.6.1.2.1.1.7.0", INTEGER, 2),
    ]


def interfaces(names, speed=1000000000):
    rows = [("1.3.6.1.2.1.2.1.0", INTEGER, len(names))]
    for i, name in names.items():
        mac = "00163e%06x" % i
        for column, tag, value in [
            (1, INTEGER, i), (2, STRING, name), (3, INTEGER, 6), (4, INTEGER, 1500), (5, GAUGE, speed), (6, HEX, mac),
            (7, INTEGER, 1), (8, INTEGER, 1 + i % 2), (9, TICKS, i * 100 % 2**32), (10, C32, (i * 97654321) % 2**32), (14, C32, i % 2**32),
        ]:
            rows.append(("1.3.6.1.2.1.2.2.1.%d.%d" % (column, i), tag, value))
        for column, tag, value in [
            (1, STRING, name), (6, C64, i * 10**15 % 2**64), (10, C64, (i * 10**14 + 7) % 2**64), (15, GAUGE, speed // 10**6), (18, STRING, "to customer %d" % i),
        ]:
            rows.append(("1.3.6.1.2.1.31.1.1.1.%d.%d" % (column, i), tag, value))
    return rows


def switch48():
    rows = system("48-port access switch", "1.3.6.1.4.1.99999.1.48", "access-1")
    rows += interfaces({i: "GigabitEthernet0/%d" % i for i in range(1, 49)})
    for n in range(300):  # the forwarding table
        mac = [0, 22, 62, 1, n // 256, n % 256]
        index = ".".join(map(str, mac))
        rows.append(("1.3.6.1.2.1.17.4.3.1.1." + index, HEX, "".join("%02x" % b for b in mac)))
        rows.append(("1.3.6.1.2.1.17.4.3.1.2." + index, INTEGER, 1 + n % 48))
        rows.append(("1.3.6.1.2.1.17.4.3.1.3." + index, INTEGER, 3))
    return rows


def olt():
    rows = system("GPON OLT, 16 ports", "1.3.6.1.4.1.99999.2.16", "olt-1")
    rows += interfaces({0x10000000 + port * 0x100: "gpon-olt_1/1/%d" % port for port in range(1, 17)}, 2500000000)
    for port in range(1, 17):
        for onu in range(1, 33):
            index = "%d.%d" % (0x10000000 + port * 0x100, onu)
            serial = b"GPON" + bytes([port, onu, 0xA0 + port, 0xFF - onu])
            table = "1.3.6.1.4.1.99999.2.3.1."
            rows.append((table + "2." + index, HEX, serial.hex()))
            rows.append((table + "3." + index, INTEGER, 1 + (port + onu) % 4))
            rows.append((table + "4." + index, INTEGER, -2000 - port * 10 - onu))  # dBm / 100
            rows.append((table + "5." + index, STRING, "абонент %d/%d" % (port, onu)))
    return rows


def ups():
    rows = system("three-phase UPS", "1.3.6.1.2.1.33", "ups-1")
    for oid, tag, value in [
        ("1.1.0", STRING, "a maker"), ("1.2.0", STRING, "model 3"), ("2.1.0", INTEGER, 2), ("2.2.0", INTEGER, 0), ("2.3.0", INTEGER, 47),
        ("2.4.0", INTEGER, 100), ("2.5.0", INTEGER, 548), ("2.6.0", INTEGER, -3), ("2.7.0", INTEGER, 31), ("3.1.0", C32, 4), ("3.2.0", INTEGER, 3),
    ]:
        rows.append(("1.3.6.1.2.1.33.1." + oid, tag, value))
    for phase in (1, 2, 3):
        for column, value in ((2, 500), (3, 229 + phase), (4, 12), (5, 2750)):
            rows.append(("1.3.6.1.2.1.33.1.3.3.1.%d.%d" % (column, phase), INTEGER, value))
    rows.append(("1.3.6.1.2.1.33.1.6.1.0", GAUGE, 0))
    return rows


def counters():
    rows = system("core router", "1.3.6.1.4.1.99999.4", "core-1")
    for i, value in enumerate([0, 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**63 + 1, 18446744073709551000, 2**64 - 1], 1):
        rows.append(("1.3.6.1.2.1.31.1.1.1.6.%d" % i, C64, value))
    for i, value in enumerate([0, 127, 128, 255, 256, 2**31 - 1, 2**31, 2**32 - 1], 1):
        rows.append(("1.3.6.1.4.1.99999.4.1.%d" % i, C32, value))
        rows.append(("1.3.6.1.4.1.99999.4.2.%d" % i, GAUGE, value))
        rows.append(("1.3.6.1.4.1.99999.4.3.%d" % i, TICKS, value))
    for i, value in enumerate([0, 1, -1, 127, -128, 128, -129, 2**31 - 1, -(2**31)], 1):
        rows.append(("1.3.6.1.4.1.99999.4.4.%d" % i, INTEGER, value))
    return rows


def strings():
    rows = system("radio bridge with odd strings", "1.3.6.1.4.1.99999.5", "radio-1")
    odd = [
        b"", b" ", b"plain", b"two\nlines\r\n", b"tab\there", b"\x00", b"ends with zero\x00", b"\x00\x16\x3e\x00\x00\x01",
        "Київ, радіо".encode(), "Київ".encode("cp1251"), b"\xff\xfe\xfd", b"\x1b[31mred\x1b[0m", b'quote " and \\ backslash', b"\x7f", b"\xc2\x85",
        b"<script>", b"x" * 700, bytes(range(256)),
    ]
    for i, value in enumerate(odd, 1):
        rows.append(("1.3.6.1.4.1.99999.5.1.%d" % i, HEX, value.hex()))
    rows.append(("1.3.6.1.4.1.99999.5.2.0", IP, "192.0.2.1"))
    rows.append(("1.3.6.1.4.1.99999.5.3.0", OID, "1.3.6.1.4.1.4294967295.2147483648.0.127.128"))
    rows.append(("1.3.6.1.4.1.99999.5.4.0", OID, "0.0"))
    return rows


def router():
    rows = system("small router", "1.3.6.1.4.1.14988.1", "router-1")
    rows += interfaces({1: "ether1", 2: "ether2", 15: "bridge", 16777217: "<pppoe-user>"})
    for n in range(1, 41):
        address = "10.0.%d.%d" % (n, 200 - n)
        index = "15." + address
        rows.append(("1.3.6.1.2.1.4.22.1.1." + index, INTEGER, 15))
        rows.append(("1.3.6.1.2.1.4.22.1.2." + index, HEX, "00163eaa%04x" % n))
        rows.append(("1.3.6.1.2.1.4.22.1.3." + index, IP, address))
        rows.append(("1.3.6.1.2.1.4.22.1.4." + index, INTEGER, 3))
    return rows


def radio():
    rows = system("microwave link, 2+0, 18 GHz", "1.3.6.1.4.1.99999.6", "link-north")
    rows += interfaces({1: "lan", 101: "radio a", 102: "radio b"}, 400000000)
    for carrier in (1, 2):
        for column, tag, value in [
            (2, INTEGER, -38 - carrier),  # dBm received
            (3, INTEGER, 23), (4, GAUGE, 17700000 + carrier * 56000), (5, INTEGER, -127), (6, C32, 4294967290 + carrier),
            (7, OPAQUE, "9f7804" + struct.pack(">f", 31.25 * carrier).hex()),  # dB of signal over noise
            (8, OPAQUE, "9f7804" + struct.pack(">f", -0.5 / carrier).hex()), (9, OPAQUE, "9f7908" + struct.pack(">d", -1234567.25 * carrier).hex()),
            (10, STRING, "1.2E-12"), (11, HEX, "0%d00ff80" % carrier), (12, STRING, "4096QAM"),
        ]:
            rows.append(("1.3.6.1.4.1.99999.6.1.1.%d.%d" % (column, carrier), tag, value))
        for quarter in range(1, 97):  # a day in intervals of 15 minutes (RFC 3593)
            index = "%d.%d" % (100 + carrier, quarter)
            rows.append(("1.3.6.1.4.1.99999.6.2.1.2." + index, INTEGER, -38 - quarter % 7))
            rows.append(("1.3.6.1.4.1.99999.6.2.1.3." + index, GAUGE, 0 if quarter % 9 else 900))
            rows.append(("1.3.6.1.4.1.99999.6.2.1.4." + index, C64, 2**63 + quarter * 10**12))
    return rows


def mikrotik():
    rows = system("RouterOS CCR", "1.3.6.1.4.1.14988.1", "ccr-1")
    names = {1: "ether1-вузол", 2: "sfp-sfpplus1", 12: "bridge", 25: "vlan100"}
    names.update({15728640 + n: "<pppoe-user%d>" % n for n in range(1, 31)})
    rows += interfaces(names)
    mtxr = "1.3.6.1.4.1.14988.1.1."
    rows += [
        (mtxr + "3.8.0", INTEGER, 241), (mtxr + "3.10.0", INTEGER, -5), (mtxr + "3.14.0", INTEGER, 1200), (mtxr + "4.1.0", STRING, "ABCD-1234"),
        (mtxr + "4.4.0", STRING, "7.11"), (mtxr + "7.3.0", STRING, "0123456789AB/r2"), (mtxr + "8.1.0", HEX, ""),
    ]
    for n in range(1, 41):  # stations of an access point: the index is their MAC address and the interface
        index = "%d.%d.%d.0.%d.255.12" % (4, 24, 214, n)
        for column, tag, value in [
            (1, HEX, "0418d600%02xff" % n), (3, INTEGER, -40 - n), (4, C32, n * 100000007 % 2**32), (5, C32, n), (8, GAUGE, 130000000), (11, TICKS, n * 6000),
            (12, INTEGER, 35), (19, HEX, ("станція %d" % n).encode("cp1251").hex()),
        ]:
            rows.append((mtxr + "1.2.1.%d.%s" % (column, index), tag, value))
    for n in range(1, 21):  # simple queues
        for column, tag, value in [
            (2, STRING, "client-%d" % n), (3, IP, "10.1.%d.0" % n), (4, IP, "255.255.255.0"), (7, INTEGER, 0), (8, C64, n << 58), (9, C64, n << 40),
        ]:
            rows.append((mtxr + "2.1.1.%d.%d" % (column, 2147483648 + n), tag, value))
    for index, what in ((65536, "main memory"), (131073, "disk: nand")):
        for column, tag, value in [(1, INTEGER, index), (2, OID, "1.3.6.1.2.1.25.2.1.2"), (3, STRING, what), (4, INTEGER, 1024), (5, INTEGER, 16777216), (6, INTEGER, 90123)]:
            rows.append(("1.3.6.1.2.1.25.2.3.1.%d.%d" % (column, index), tag, value))
    for n in (1, 2):  # ipAddressTable (RFC 4293): the index is an IPv6 address
        rows.append(("1.3.6.1.2.1.4.34.1.3.2.16.32.1.13.184.0.0.0.0.0.0.0.0.0.0.0.%d" % n, INTEGER, 12))
    return rows


def lldp():
    rows = system("core switch with neighbours", "1.3.6.1.4.1.99999.7", "core-sw")
    rows += interfaces({i: "xe-0/0/%d" % i for i in range(1, 25)}, 4294967295)
    mib = "1.0.8802.1.1.2.1."
    rows += [
        (mib + "3.1.0", INTEGER, 4), (mib + "3.2.0", HEX, "02000000aa00"), (mib + "3.3.0", STRING, "core-sw"),
        (mib + "3.4.0", STRING, "core switch"), (mib + "3.5.0", HEX, "28"), (mib + "3.6.0", HEX, "20"),
    ]
    for port in range(1, 25):
        rows.append((mib + "3.7.1.2.%d" % port, INTEGER, 5))
        rows.append((mib + "3.7.1.3.%d" % port, STRING, "xe-0/0/%d" % port))
        rows.append((mib + "3.7.1.4.%d" % port, STRING, "to access-%d" % port))
        index = "%d.%d.1" % (port * 1000, port)
        for column, tag, value in [
            (4, INTEGER, 4), (5, HEX, "02000000bb%02x" % port), (6, INTEGER, 7), (7, STRING, str(500 + port)), (8, STRING, "uplink"),
            (9, STRING, "access-%d" % port), (10, STRING, ""), (11, HEX, "2800"), (12, HEX, "2000"),
        ]:
            rows.append((mib + "4.1.1.%d.%s" % (column, index), tag, value))
        rows.append((mib + "4.2.1.3.%s.1.4.192.0.2.%d" % (index, port), INTEGER, 2))
        rows.append((mib + "4.2.1.4.%s.1.4.192.0.2.%d" % (index, port), INTEGER, port))
        rows.append((mib + "4.2.1.5.%s.1.4.192.0.2.%d" % (index, port), OID, "0.0"))
    return rows


def key(row):
    return [int(n) for n in row[0].split(".")]


for family in (switch48, olt, ups, counters, strings, router, radio, mikrotik, lldp):
    name, rows = family.__name__, family()
    with open(name + ".snmprec", "w", encoding="utf-8") as out:
        for oid, tag, value in sorted(rows, key=key):
            if tag == STRING and not str(value).isascii():
                tag, value = HEX, str(value).encode().hex()
            out.write("%s|%s|%s\n" % (oid, tag, value))
