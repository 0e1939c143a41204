# The default attestation policy of sealift-broker. Replace it with --attestation-policy.
#
# Input is the annotated evidence of the token: the TEE's claims under its name, report_data,
# runtime_data_claims, and init_data_claims where the TEE proved them. Claims and reference values
# have the names that Confidential Containers' Trustee gives them.
#
# Numbers are AR4SI's: 2 and 3 affirm, 32 to 95 warn, 96 and above say no, 0 says nothing. Evidence
# that is not genuine never comes here. Nothing affirms without reference values.
package policy

# 33: executables that are not recognized.
default executables := 33

# 97: hardware that is not recognized.
default hardware := 97

# 36: configuration that is not known.
default configuration := 36

trust_claims := {
	"executables": executables,
	"hardware": hardware,
	"configuration": configuration,
}

known(value, name) if value in query_reference_value(name)

# What the host started the guest with. "none" is for guests without: their field is zeros.
known_init_data(field, name) if known(field, name)

known_init_data(field, name) if {
	known("none", name)
	count(field) > 0
	trim(field, "0") == ""
}

# Why a claim does not affirm: "<claim>: <rule>". Shown to the guest, so nothing of its claims. The
# broker adds the number of each claim that does not affirm and that none of these is about. They
# are only looked at when a guest does not affirm.

##### sample: anyone can write it. The broker says no to it whatever stands here.

##### snp

executables := 3 if known(input.snp.evidence.measurement, "snp_launch_measurement")

hardware := 2 if {
	tcb := input.snp.evidence.reported_tcb
	known(tcb.bootloader, "snp_bootloader")
	known(tcb.microcode, "snp_microcode")
	known(tcb.snp, "snp_snp_svn")
	known(tcb.tee, "snp_tee_svn")
} else := 32 if input.snp # genuine, with firmware that nobody vouched for

configuration := 3 if {
	snp_policy
	known_init_data(input.snp.init_data, "snp_init_data")
}

reasons contains "executables: the launch measurement is not a reference value" if {
	input.snp
	executables != 3
}

reasons contains "hardware: the firmware is not a reference value" if {
	input.snp
	hardware != 2
}

reasons contains "configuration: debugging or a migration agent is allowed" if {
	input.snp
	not snp_policy
}

reasons contains "configuration: init-data is not a reference value" if {
	input.snp
	not known_init_data(input.snp.init_data, "snp_init_data")
}

snp_policy if {
	input.snp.evidence.policy.debug_allowed == false
	input.snp.evidence.policy.migrate_ma_allowed == false
}

##### tdx

executables := 3 if {
	known(input.tdx.quote.body.rtmr_1, "rtmr_1")
	known(input.tdx.quote.body.rtmr_2, "rtmr_2")
}

hardware := tdx_hardware(input.tdx, "mr_td")

configuration := 2 if {
	input.tdx.td_attributes.debug == false
	known(input.tdx.quote.body.xfam, "xfam")
	known_init_data(input.tdx.init_data, "tdx_init_data")
}

reasons contains "executables: RTMR 1 or 2 is not a reference value" if {
	input.tdx
	executables != 3
}

reasons contains "hardware: the TCB is not up to date" if {
	input.tdx
	not input.tdx.tcb_status == "UpToDate"
}

reasons contains "hardware: MRTD is not a reference value" if {
	input.tdx
	not known(input.tdx.quote.body.mr_td, "mr_td")
}

reasons contains "configuration: debugging is allowed" if {
	input.tdx
	not input.tdx.td_attributes.debug == false
}

reasons contains "configuration: XFAM is not a reference value" if {
	input.tdx
	not known(input.tdx.quote.body.xfam, "xfam")
}

reasons contains "configuration: init-data is not a reference value" if {
	input.tdx
	not known_init_data(input.tdx.init_data, "tdx_init_data")
}

# Genuine, with weaknesses that the guest or the platform's owner can do something about.
advised := {"SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"}

tdx_hardware(td, measurement) := 2 if {
	td.tcb_status == "UpToDate"
	known(td.quote.body.mr_td, measurement)
} else := 32 if {
	td.tcb_status in advised
} else := 33 if {
	td.tcb_status == "UpToDate"
} else := 96

##### az-snp-vtpm, az-tdx-vtpm

executables := 3 if {
	known(input["az-snp-vtpm"].measurement, "measurement")
	booted(input["az-snp-vtpm"].tpm, "snp")
}

# Which boot it was: PCR 11, as upstream asks, and PCR 4, since the guest itself can extend PCR 11 to
# any value that a listed image would have. Whatever else is listed has to be met, too.
booted(pcrs, prefix) if {
	query_reference_value(concat("_", [prefix, "pcr04"])) != null
	query_reference_value(concat("_", [prefix, "pcr11"])) != null
	every number in numbers.range(0, 23) {
		met(pcrs, sprintf("pcr%02d", [number]), prefix)
	}
}

met(_, pcr, prefix) if query_reference_value(concat("_", [prefix, pcr])) == null

met(pcrs, pcr, prefix) if known(pcrs[pcr], concat("_", [prefix, pcr]))

hardware := 2 if {
	known(input["az-snp-vtpm"].reported_tcb_bootloader, "tcb_bootloader")
	known(input["az-snp-vtpm"].reported_tcb_microcode, "tcb_microcode")
	known(input["az-snp-vtpm"].reported_tcb_snp, "tcb_snp")
	known(input["az-snp-vtpm"].reported_tcb_tee, "tcb_tee")
}

configuration := 2 if {
	known(input["az-snp-vtpm"].platform_smt_enabled, "smt_enabled")
	known(input["az-snp-vtpm"].platform_tsme_enabled, "tsme_enabled")
	known(input["az-snp-vtpm"].policy_abi_major, "abi_major")
	known(input["az-snp-vtpm"].policy_abi_minor, "abi_minor")
	known(input["az-snp-vtpm"].policy_single_socket, "single_socket")
	known(input["az-snp-vtpm"].policy_smt_allowed, "smt_allowed")
	input["az-snp-vtpm"].policy_migrate_ma == "false"
}

executables := 3 if booted(input["az-tdx-vtpm"].tpm, "tdx")

# Not by upstream's mr_td: whoever starts a listed firmware of other TDs with a kernel of his own, which
# the RTMRs would show, could name a vTPM key of his own here.
hardware := tdx_hardware(input["az-tdx-vtpm"], "az_tdx_mr_td")

configuration := 2 if known(input["az-tdx-vtpm"].quote.body.xfam, "xfam")

##### tpm: its attestation key is on the broker's list (--tpm-trusted-key), or it would not be here

# Reference values tpm_pcr00 to tpm_pcr23: all that there are have to be met, also by a guest that
# has not quoted them.
tpm_references := {pcr: values |
	some number in numbers.range(0, 23)
	pcr := sprintf("pcr%02d", [number])
	values := query_reference_value(concat("_", ["tpm", pcr]))
	values != null
}

executables := 3 if {
	input.tpm # else the 24 names are looked up for every guest
	count(tpm_references) > 0
	every pcr, values in tpm_references {
		input.tpm[pcr] in values
	}
}

reasons contains "executables: a PCR is not a reference value" if {
	input.tpm
	executables != 3
}

hardware := 2 if input.tpm

configuration := 0 if input.tpm
