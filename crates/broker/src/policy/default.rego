# The default resource policy of sealift-broker: a resource is released to guests whose every
# attested part is "affirming", and to nobody else.
#
# Replace it with POST /kbs/v0/resource-policy or --policy. Input and data are those of
# Confidential Containers' KBS:
#   input                  the attestation token's claims
#   data.plugin            "resource"
#   data["resource-path"]  [repository, type, tag]
#   data.query             the request's query, string to string
package policy

default allow := false

allow if {
	data.plugin == "resource"
	count(input.submods) > 0
	every part in input.submods {
		part["ear.status"] == "affirming"
	}
}

# Told to those who are refused; nothing depends on them. A policy needs none.
reasons contains reason if {
	some part in input.submods
	part["ear.status"] != "affirming"
	some reason in part["sealift.reasons"]
}

reasons contains sprintf("%v is not attested as affirming", [name]) if {
	some name, part in input.submods
	not part["ear.status"] == "affirming"
	not part["sealift.reasons"]
}
