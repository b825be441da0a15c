# ---- values as text ------------------------------------------------------------------------------------------------------


def encode(value, depth=0):
    """A value as literal text that says its exact built-in type; whatever else is opaque, with its truth value."""
    kind = type(value)
    if kind is int:
        return int.__repr__(value) if -(1 << 200) < value < 1 << 200 else hex(value)
    if kind is str:
        return str.__repr__(value)
    if kind is bool or value is None or kind is bytes:
        return repr(value)
    if kind is float:
        return "float('%s')" % float.__repr__(value) if value - value != 0.0 else float.__repr__(value)
    if kind is complex:
        return "complex(%s, %s)" % (encode(value.real), encode(value.imag))
    if depth >= MAX_DEPTH:
        return "opaque(1, 'nested too deep')"
    depth += 1
    if kind in (list, tuple) and PLAIN.issuperset(map(type, value)):
        try:
            return repr(value)
        except ValueError:
            pass  # an integer of more digits than Python shows
    if kind is list:
        return "[%s]" % ", ".join([encode(item, depth) for item in value])
    if kind is tuple:
        return encode_tuple(value, depth)
    if kind is dict:
        return encode_dict(value, depth)
    if kind is set:
        return "{%s}" % ", ".join([encode(item, depth) for item in value]) if value else "set()"
    if kind is frozenset:
        return "frozenset({%s})" % ", ".join([encode(item, depth) for item in value]) if value else "frozenset()"
    if value is Ellipsis:
        return "..."
    if kind in (fractions.Fraction, decimal.Decimal):
        # Equal to a whole number or to a float, or to no plain number at all.
        number = int(value) if value == value // 1 else float(value)
        return LOSSY % encode(number) if number == value else opaque(value, kind)
    if kind is collections.Counter or kind is collections.OrderedDict:
        return LOSSY % encode_dict(value, depth)
    for base in (int, str, float, tuple, dict, list, set, frozenset, bytes):
        if base in kind.__mro__ and kind.__eq__ is base.__eq__:  # it compares as what it is made of
            plain = BASE_COPIES[base](value)
            return LOSSY % encode(plain, depth - 1)
    return opaque(value, kind)


def encode_tuple(value, depth):
    items = [encode(item, depth) for item in tuple.__iter__(value)]
    return "(%s,)" % items[0] if len(items) == 1 else "(%s)" % ", ".join(items)


def encode_dict(value, depth):
    return "{%s}" % ", ".join(["%s: %s" % (encode(k, depth), encode(v, depth)) for k, v in dict.items(value)])


def opaque(value, kind):
    return "opaque(%d, %r)" % (bool(value), str.__str__(kind.__name__)[:60])


# Copies of what a value of a subclass is made of, by the methods of the base class.
BASE_COPIES = {
    int: int.__pos__, str: str.__str__, float: float.__pos__, bytes: lambda value: bytes.__getitem__(value, slice(None)),
    tuple: lambda value: tuple([*tuple.__iter__(value)]), dict: lambda value: {key: item for key, item in dict.items(value)},
    list: lambda value: [*list.__iter__(value)], set: lambda value: {*set.__iter__(value)},
    frozenset: lambda value: frozenset([*frozenset.__iter__(value)]),
}
PLAIN = frozenset((int, str, bool, float, type(None)))
MAX_DEPTH = 100  # as deep as tests may be: `literal_parser.rs` reads as much
LOSSY = "%s"  # how a namedtuple or a Counter is told apart from the tuple or dict that it is; by default it is not


