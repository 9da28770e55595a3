package runner

// CostModel predicts how long a run takes on a device: arithmetic and the traffic of activations each at a rate. The zero model compares
// runs by their multiply-adds.
type CostModel struct {
	PerMAC   float64 `json:"s_per_mac"`
	PerValue float64 `json:"s_per_value"`
}

// Seconds of a run from its start to its end.
func (c CostModel) Seconds(r *PlannedRun) float64 {
	if c == (CostModel{}) {
		return r.MACs
	}
	return c.PerMAC*r.MACs + c.PerValue*r.Values
}
