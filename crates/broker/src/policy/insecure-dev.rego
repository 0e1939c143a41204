
# --insecure-dev: evidence that anyone can write is good enough.
allow if {
	data.plugin == "resource"
	input.submods.cpu0["ear.veraison.annotated-evidence"].sample
}
