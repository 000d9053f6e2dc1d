/** The panel in the left area: compress, studies, clusters. */

import type { JSX } from 'react';

import { ReactWidget, SidePanel } from '@jupyterlab/ui-components';
import type { Message } from '@lumino/messaging';
import { Signal } from '@lumino/signaling';
import { AccordionPanel } from '@lumino/widgets';

import type { Actions } from './actions';
import type { Api } from './api';
import { Clusters } from './components/Clusters';
import { Compress } from './components/Compress';
import { Studies } from './components/Studies';
import type { FormState } from './form';
import { useLive, useSignal } from './hooks';
import { icon } from './icon';
import type { KernelVariables } from './kernel';
import type { Live } from './live';
import type { ClusterList, Service, StudyList } from './types';

export interface PanelModel {
  api: Api;
  actions: Actions;
  kernel: KernelVariables;
  form: FormState;
  service: Live<Service>;
  studies: Live<StudyList>;
  clusters: Live<ClusterList>;
  /** Forget what a person chose in the form. */
  resetForm: () => void;
}

export class QuantPanel extends SidePanel {
  constructor(model: PanelModel) {
    super();
    this.id = 'quanttaas-panel';
    this.addClass('qt-panel');
    this.title.icon = icon;
    this.title.caption = 'QuantTaaS: compress models';
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', 'QuantTaaS');
    this.addWidget(section('Compress', <CompressSection model={model} />));
    this.addWidget(section('Studies', <StudiesSection model={model} />));
    this.addWidget(section('Clusters', <ClustersSection model={model} />));
    // The form needs the most of it; a person may drag the borders.
    if (this.content instanceof AccordionPanel) {
      this.content.setRelativeSizes([6, 3, 2]);
    }
  }

  /** Emitted when the panel is shown or hidden. */
  readonly shown = new Signal<this, boolean>(this);

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this.shown.emit(true);
  }

  protected override onAfterHide(message: Message): void {
    super.onAfterHide(message);
    this.shown.emit(false);
  }
}

function section(title: string, content: JSX.Element): ReactWidget {
  const widget = ReactWidget.create(content);
  widget.title.label = title;
  widget.addClass('qt-scroll');
  return widget;
}

function CompressSection({ model }: { model: PanelModel }): JSX.Element {
  const kernel = useSignal(model.kernel.changed, () => model.kernel.state);
  const form = useSignal(model.form.changed, () => model.form.form);
  const { value, error } = useLive(model.service);
  return (
    <Compress
      service={value}
      error={value ? null : error}
      kernel={kernel}
      form={form}
      onChange={values => model.form.set(values)}
      check={model.api.check}
      plan={model.api.plan}
      insert={(cell, run) => void model.actions.insert(cell, run)}
      retry={() => void model.service.refresh()}
      reset={model.resetForm}
    />
  );
}

function StudiesSection({ model }: { model: PanelModel }): JSX.Element {
  const known = useLive(model.studies);
  return <Studies known={known} actions={model.actions} refresh={() => void model.studies.refresh()} />;
}

function ClustersSection({ model }: { model: PanelModel }): JSX.Element {
  const known = useLive(model.clusters);
  return <Clusters known={known} actions={model.actions} refresh={() => void model.clusters.refresh()} />;
}
